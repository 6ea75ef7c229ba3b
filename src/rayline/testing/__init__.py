"""The executable contracts: run them on stages and framework adapters of your own."""

from rayline.testing.case import training_table
from rayline.testing.frameworks import check_framework
from rayline.testing.odd import example_table
from rayline.testing.stages import check_stage

__all__ = ["check_framework", "check_stage", "example_table", "training_table"]
