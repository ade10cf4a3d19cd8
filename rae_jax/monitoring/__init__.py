"""What a run tells the outside: numbers, pictures, curves, speed, progress."""
