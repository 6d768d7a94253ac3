"""What is wrong with what the user gave; apart from the other nouns because it needs no JAX."""


class InputError(ValueError):
    """Something the user gave cannot work; the message names it, its value and the remedy.

    Command lines print the message alone and exit with code 2.
    """
