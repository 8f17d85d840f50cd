"""User corrections of a box's answers, and new classes learned from them."""
