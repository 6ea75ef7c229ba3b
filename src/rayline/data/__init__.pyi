from rayline.data.batches import map_batches as map_batches
from rayline.data.read import from_arrow as from_arrow
from rayline.data.read import from_pandas as from_pandas
from rayline.data.read import from_polars as from_polars
from rayline.data.read import read_csv as read_csv
from rayline.data.read import read_json as read_json
from rayline.data.read import read_parquet as read_parquet
from rayline.data.split.base import Folds as Folds
from rayline.data.split.base import Splitter as Splitter
from rayline.data.split.holdout import Holdout as Holdout
from rayline.data.split.splitters import Bootstrap as Bootstrap
from rayline.data.split.splitters import GroupKFold as GroupKFold
from rayline.data.split.splitters import KFold as KFold
from rayline.data.split.splitters import RepeatedKFold as RepeatedKFold
from rayline.data.split.splitters import StratifiedKFold as StratifiedKFold
from rayline.data.split.splitters import TimeSeriesSplit as TimeSeriesSplit
from rayline.data.split.train_test import train_test_split as train_test_split

__all__: list[str]
