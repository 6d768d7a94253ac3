"""Methods that hold parameters or answers near what was learned."""
