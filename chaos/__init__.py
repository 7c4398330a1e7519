"""What the service promises of its jobs, tried while everything that it stands on is killed, stopped, filled and cut off."""
