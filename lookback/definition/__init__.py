"""What features are: the YAML definition, its checks, and the plans that the kernel works by."""

from lookback.definition.compile import compile_view as compile_view
from lookback.definition.loader import load as load
from lookback.definition.loader import loads as loads
from lookback.definition.model import json_schema as json_schema
from lookback.definition.on_demand import evaluate_on_demand as evaluate_on_demand
from lookback.definition.on_demand import evaluate_on_demand_row as evaluate_on_demand_row
from lookback.definition.types import Entity as Entity
from lookback.definition.types import EventTime as EventTime
from lookback.definition.types import Field as Field
from lookback.definition.types import FieldType as FieldType
from lookback.definition.types import Stream as Stream
from lookback.definition.types import parse_duration as parse_duration
from lookback.definition.view import Definition as Definition
from lookback.definition.view import OnDemand as OnDemand
from lookback.definition.view import View as View
