"""The same calls on a Polars table in this process: Ray is not started, and not even imported."""

import sys
import tempfile
from pathlib import Path

import polars as pl
from sklearn.datasets import load_breast_cancer

import rayline as rl
from rayline import data, train
from rayline.stages import SimpleImputer, StandardScaler

tumours = load_breast_cancer()
table = pl.DataFrame(tumours.data, schema=[str(name) for name in tumours.feature_names])
table = table.with_columns(kind=pl.Series([str(tumours.target_names[code]) for code in tumours.target]))

trainset, testset = data.train_test_split(table, percentage=0.25, stratify="kind")
pipeline = train.Preprocessor(stages=[("impute", SimpleImputer()), ("scale", StandardScaler())])
trainer = train.XGBoostTrainer({"objective": "binary:logistic", "max_depth": 3}, num_boost_round=80, seed=0)
result = train.fit(
    trainer,
    pipeline,
    train_dataset=trainset,
    test_dataset=testset,
    target_columns=["kind"],
    metrics=["roc_auc", "accuracy"],
)
print(result)

with tempfile.TemporaryDirectory() as folder:
    result.inference_pipeline.save(Path(folder) / "tumours.rayline")
    loaded = rl.load(Path(folder) / "tumours.rayline")
print(loaded.predict(testset.head(3)))
print(loaded.predict_proba(testset.head(3)))
print("Ray was imported:", "ray" in sys.modules)
