"""Many rows: column batches of Ray, Spark and Dask, rows of files, and jobs that can be resumed.

>>> from mpt_edge.batch import Predictor
>>> predict = Predictor("models/minilm-l6", task="sst2")
>>> predict({"text": ["a gorgeous, witty film"]})["label"].tolist()
['positive']
"""

from mpt_edge.batch.predictor import Predictor

__all__ = ["Predictor"]
