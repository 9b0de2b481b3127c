"""What the packages share and no user imports: files, hints, messages of native libraries."""
