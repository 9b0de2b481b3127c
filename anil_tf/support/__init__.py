"""Shared internals: files, hints, messages of native libraries. Users import nothing from here."""
