"""Deciding on masks: by slice and by case, at once on the disk, with undo; and saving edits."""
