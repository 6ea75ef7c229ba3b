"""Private names of transformers, Lightning and Horovod."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rayline.compat.private_name import register

_TRANSFORMERS_SAVE = register(
    "transformers:Trainer._save_checkpoint",
    "transformers 5.23.0",
    use="Write a complete checkpoint at the end of an epoch.",
    fallback="Model, optimizer, schedule and state are written with public functions; the random state is not.",
)
_LIGHTNING_CONNECTOR = register(
    "lightning.pytorch.trainer.connectors.checkpoint_connector:_CheckpointConnector.dump_checkpoint",
    "lightning 2.6.6",
    use="Write a checkpoint on one worker: Trainer.save_checkpoint waits for all.",
    fallback="Trainer.save_checkpoint on one worker; an error on several.",
)
_HOROVOD_SERVER = register(
    "horovod.runner.http.http_server:RendezvousServer",
    "horovod 0.28.1",
    use="Close the socket of the rendezvous server (`_httpd`), which `stop` leaves open.",
    fallback="The socket stays open until the process ends.",
)


_N_GPU = register(
    "transformers:TrainingArguments._setup_devices",
    "transformers 5.23.0",
    use="Train on one of the GPUs that a process sees, as every other framework here does: it sets `_n_gpu`, which is set again.",
    fallback="transformers uses all of them, and a batch is that many times larger.",
)


_PREPARE_INPUTS = register(
    "transformers:Trainer._prepare_inputs",
    "transformers 5.23.0",
    use="Move a batch to the device of the training, as transformers does.",
    fallback="The tensors of the batch are moved to the device of the training arguments.",
)
_ADAPTERS = register(
    "transformers.integrations.peft:PeftAdapterMixin",
    "transformers 5.23.0",
    "_hf_peft_config_loaded",
    use="Refuse to save a model with adapters, of which only the adapters would be saved.",
    fallback="`peft_config` alone says that a model has adapters.",
)


def on_its_device(trainer: Any, batch: Any) -> Any:
    """Return a batch on the device of a transformers Trainer."""
    if _PREPARE_INPUTS.find() is not None:
        return trainer._prepare_inputs(batch)
    return {name: tensor.to(trainer.args.device) for name, tensor in batch.items()}


def has_adapters(model: Any) -> bool:
    """Return whether a model of transformers has adapters (peft) beside its weights."""
    return bool(getattr(model, "_hf_peft_config_loaded", False) or getattr(model, "peft_config", None))


def use_one_gpu(arguments: Any) -> None:
    """Let transformers' training arguments use one GPU at most."""
    if _N_GPU.find() is not None and arguments.n_gpu > 1:
        arguments._n_gpu = 1


def save_transformers_checkpoint(trainer: Any, directory: Path) -> None:
    """Write a checkpoint of a transformers Trainer from which it can resume."""
    if _TRANSFORMERS_SAVE.find() is None:
        import torch

        trainer.save_model(str(directory))
        for part in (trainer.optimizer, trainer.lr_scheduler):
            name = "optimizer.pt" if part is trainer.optimizer else "scheduler.pt"
            torch.save(part.state_dict(), directory / name)
        trainer.state.save_to_json(str(directory / "trainer_state.json"))
        return
    trainer._save_checkpoint(trainer.model, trial=None)
    kept = Path(trainer.args.output_dir, f"checkpoint-{trainer.state.global_step}")
    shutil.copytree(kept, directory, dirs_exist_ok=True)
    shutil.rmtree(kept)


def save_lightning_checkpoint(trainer: Any, path: Path) -> None:
    """Write a checkpoint of a Lightning Trainer, on the calling worker alone."""
    connector = getattr(trainer, "_checkpoint_connector", None)
    if _LIGHTNING_CONNECTOR.find() is not None and connector is not None:
        import torch

        torch.save(connector.dump_checkpoint(weights_only=False), path)
    elif trainer.world_size == 1:
        trainer.save_checkpoint(path)
    else:
        raise RuntimeError("This version of Lightning cannot write a checkpoint on one of several workers.")


def close_horovod_server(server: Any) -> None:
    """Close the socket of a stopped rendezvous server."""
    socket = getattr(server, "_httpd", None)
    if socket is not None:
        socket.server_close()
