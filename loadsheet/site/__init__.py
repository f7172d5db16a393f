"""The static site of `loadsheet docs`: the page of `loadsheet ui` with its documents stored in it.
Read-only, except for the site's folder."""
