"""The config of a run: one YAML file, one frozen section for each stage, an error at its place.

    config = load("runs.yaml")            # a ConfigError says file:line:column, what and the remedy

`rlaif/sandbox/demo.yaml` is a whole one. Paths in the file start from the file's folder.
"""

from rlaif.config.engine import EngineConfig, ServingConfig
from rlaif.config.loading import load
from rlaif.config.naming import Named, named
from rlaif.config.run import RunConfig

__all__ = ["EngineConfig", "Named", "RunConfig", "ServingConfig", "load", "named"]
