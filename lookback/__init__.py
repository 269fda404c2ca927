"""The same features, as of any moment, from one definition and one code path."""

from lookback.client import Client as Client
from lookback.errors import DefinitionError as DefinitionError
from lookback.errors import LookbackError as LookbackError
from lookback.errors import RefusedError as RefusedError
from lookback.errors import StoreError as StoreError
from lookback.errors import UsageError as UsageError
from lookback.reading import Reading as Reading
from lookback.training import TrainingSet as TrainingSet
from lookback.training import load_training as load_training
