"""How right a model is on pictures as a camera gives them: small, badly cut, blurred, compressed, dark."""
