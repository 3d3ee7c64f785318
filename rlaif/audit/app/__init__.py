"""The review app: a page at a time, blind, with one key a verdict.

`serving` starts it, `security` guards every request, `reviewing` and `leading` are its routes,
`pages` fills the templates, `shown` prepares texts and word diffs, `plots` draws.

    rlaif audit serve runs/mine
"""
