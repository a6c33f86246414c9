"""What gateway and worker both speak: settings, job models, the store, logs, metrics, signing, addresses."""
