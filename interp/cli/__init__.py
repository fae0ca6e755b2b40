"""The command line: `interp VERB`. Every verb's options derive from a frozen Config whose fields carry the help text.

In reading order:

- `app`: the root command, its tables of verbs, exit codes, `demo`, `doctor` and the verbs of `runs`
- `sae`: `harvest`, `sae train`, `sae convert`, `features scan` and its other verbs
- `find`: `find`
- `export`: `export`, `verify`, `undo`
- `audit`: `audit`, `gate`
- `search`: `run`
- `tuning`: `tune`, `compare`
- `_options`: from the fields of a Config to the options of a verb
"""
