"""The flights example brought to life: embedded servers, a source generator and the `make demo`
story."""
