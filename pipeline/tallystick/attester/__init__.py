"""In the guest: collect evidence, ask for the key, unwrap it. Part of the measured image."""
