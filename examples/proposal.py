"""The script of the proposal that Rayline began with ("External library unification"), as it runs today.

Its calls are kept, in their order. What it left open ("...") is filled in; ten workers with GPUs have become two without.
"""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import ray

from rayline import data, serve, train, tune
from rayline.stages import OneHotEncoding, Vectorizer


def reviews(n: int) -> pl.DataFrame:
    """Made-up reviews of three products, and whether the customer came back or left."""
    random = np.random.default_rng(0)
    back = random.random(n) < 0.5
    glad, sad = ["good", "fast", "kind", "solid", "nice"], ["late", "broke", "poor", "slow", "box"]
    texts = [
        " ".join(random.choice(["the", "it", "was", *(glad + glad + sad if b else sad + sad + glad)], 8)) for b in back
    ]
    labels = np.where(back, "came back", "left")
    return pl.DataFrame({"review": texts, "product": random.choice(["chair", "lamp", "table"], n), "labels": labels})


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        reviews(2_000).write_parquet(f"{folder}/reviews.parquet")

        # Data preprocessing
        ds = data.read_parquet(f"{folder}/reviews.parquet")
        trainset, testset = data.train_test_split(ds, percentage=0.2)
        pipeline = train.Preprocessor(stages=[("vectorizer", Vectorizer()), ("onehot", OneHotEncoding())])
        pipeline = pipeline.fit(trainset)  # updates the stateful parameters; which column is the target, train.fit says
        pipeline.save(f"{folder}/file.json")

        # Training
        raytrainer = train.XGBoostTrainer(
            args=[{"objective": "binary:logistic", "eval_metric": ["logloss", "error"]}],
            kwargs=dict(verbose_eval=False),
            num_workers=2,
            use_gpu=False,
        )
        results = train.fit(
            raytrainer,
            pipeline,
            train_dataset=trainset,
            test_dataset=testset,
            target_columns=["labels"],
            callbacks=[train.EarlyStopping("test-logloss", patience=5)],
        )
        print(f"trained: {raytrainer.fitted_model}, {results.metrics}")  # an xgboost.Booster

        # Hyperparameter tuning: each pipeline is fit on the training slice of the cv
        data_config = dict(train_pipeline=pipeline, train_dataset=trainset, cv=2, target_columns=["labels"])
        parameters = {
            "max_depth": tune.randint(2, 6),
            "preprocessor": {"vectorizer": {"norm": tune.choice(["l1", "l2"])}},
        }
        analysis = tune.run(raytrainer, data_config=data_config, config=parameters, num_samples=2)
        model, pipeline = analysis.best_model, analysis.best_pipeline

        # Batch processing, by hand and chained
        transformed = ds.map_batches(lambda batch: pipeline.transform(batch))  # noqa: PLW0108  # as in the proposal
        by_hand = transformed.map_batches(lambda batch: model.predict(batch))  # noqa: PLW0108
        inference_pipeline = pipeline.chain(model)
        chained = inference_pipeline.transform(ds)
        assert sorted(by_hand.to_pandas()["prediction"]) == sorted(chained.to_pandas()["prediction"])

        # Serving: the model with its stages, so that it can be asked about what customers write
        model_deployment = serve.to_deployment(inference_pipeline, name="proposal")
        try:
            model_deployment.deploy()
            print(f"deployed: {model_deployment.url}")
        finally:
            model_deployment.delete()
        assert Path(f"{folder}/file.json").exists()


if __name__ == "__main__":
    try:
        main()
    finally:
        ray.shutdown()
