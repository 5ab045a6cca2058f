"""What is known of host families beside their registry files: dimensions, FLOPs, tables. No torch before it is needed."""
