"""From a checkpoint to an engine folder for the device."""
