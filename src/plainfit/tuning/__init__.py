"""Search for settings: `pf.tune`, `plainfit tune`. Optuna loads when a study is opened."""
