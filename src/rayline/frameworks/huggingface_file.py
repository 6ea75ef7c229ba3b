"""Save and load a transformer and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rayline.compat.deep_learning import has_adapters
from rayline.core import strict_json
from rayline.core.errors import ArtifactError, first_line
from rayline.frameworks.verify import module_size, transformer
from rayline.frameworks.verify.transformer import CONFIG, TEXT


def save(model: Any, tokenizer: Any, directory: Path, about: Mapping[str, Any]) -> None:
    """Write the model and its tokenizer. Raises ArtifactError when the model has adapters in addition to its weights (LoRA),
    of which only the adapters would be saved, and when the tokenizer writes files that `load` refuses."""
    if has_adapters(model):
        raise ArtifactError(
            f"The {type(model).__name__} has adapters (peft): `transformers` would save these without the model.",
            "Expected a model with its own weights.",
            "merge the adapters into the weights (merge_and_unload of peft) and save the merged model.",
        )
    model.save_pretrained(directory, max_shard_size="100TB")
    # `transformers` omits default labels, whose number may differ in the class of the model.
    config = strict_json.loads((directory / CONFIG).read_bytes(), CONFIG)
    labels = {str(code): str(label) for code, label in model.config.id2label.items()}
    config |= {"id2label": labels, "label2id": {label: int(code) for code, label in labels.items()}}
    (directory / CONFIG).write_bytes(strict_json.dumps(config, indent=1))
    written = {Path(name).name for name in tokenizer.save_pretrained(directory) or ()}
    (directory / TEXT).write_bytes(strict_json.dumps(about, indent=1))
    strange = [name for name in transformer.strange_files(transformer.file_names(directory)) if name in written]
    if strange:
        raise ArtifactError(
            f"The tokenizer {type(tokenizer).__name__} is saved as {strange[:5]}.",
            "Expected one that is saved as tokenizer.json.",
            "use its fast version (AutoTokenizer, with the package 'tokenizers').",
        )


def load(directory: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Return the model, its tokenizer, and the content of `text.json`.

    Raises ArtifactError when a file names code, another file, or layers that the weights do not have.
    """
    shapes, about = transformer.check(directory)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with module_size.no_larger_than(shapes, CONFIG):
            model, loading_info = AutoModelForSequenceClassification.from_pretrained(
                directory, use_safetensors=True, output_loading_info=True, **options
            )
        tokenizer = AutoTokenizer.from_pretrained(directory, **options)
    except ArtifactError:
        raise
    except Exception as error:  # a wrong configuration may raise anything
        raise ArtifactError(
            f"The saved transformer cannot be read: {first_line(error)}", "", "save it again."
        ) from error
    wrong = {kind: sorted(map(str, names))[:3] for kind, names in loading_info.items() if names}
    if wrong:
        raise ArtifactError(
            "config.json describes other layers than the saved tensors.", f"Got {wrong}.", "save it again."
        )
    return model, tokenizer, about
