"""Parts of networks that are not one paper's own: torch functions and modules that know neither files nor gene tables."""
