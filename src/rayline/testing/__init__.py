"""The executable contracts: run them on custom stages and framework adapters."""

from rayline.testing.contract_case import training_table
from rayline.testing.edge_cases import example_table
from rayline.testing.framework_laws import check_framework
from rayline.testing.stages import check_stage
from rayline.testing.task_laws import check_task, task_table

__all__ = ["check_framework", "check_stage", "check_task", "example_table", "task_table", "training_table"]
