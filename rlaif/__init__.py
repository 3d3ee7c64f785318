"""Constitutional AI and RLAIF: edit a YAML constitution, rebuild a model that follows it."""

__version__ = "0.1.0"
