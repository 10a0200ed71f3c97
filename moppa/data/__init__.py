"""From a task's definition to its images as uint8 arrays."""
