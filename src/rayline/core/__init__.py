"""The contracts: what a stage, a statistic, a framework, an engine and an error are. Imports nothing of ours."""
