"""The machine under us: its facts, the profile that fits them, what is wrong with it. Changes nothing."""
