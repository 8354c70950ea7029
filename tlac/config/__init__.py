"""YAML files found, parsed and used: backends, encoders, datasets, prompts, suites; and the registry of plug-ins."""
