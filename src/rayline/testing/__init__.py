"""The executable contracts: run them on stages and framework adapters of your own."""

from rayline.testing.stages import check_stage, example_table

__all__ = ["check_stage", "example_table"]
