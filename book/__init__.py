"""What the chapters draw with and check exercises with. `lorakit`, which they teach, needs none of it."""
