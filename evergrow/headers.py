"""Headers by which a gateway tells a server which way a request took. It sets them whatever callers say."""

from __future__ import annotations

REQUEST_ID = "x-request-id"
"""A caller's name for a request; copies of it have the same."""
VERSION = "x-evergrow-version"
"""Of a caller: the version that is to answer."""
ENTITY = "x-evergrow-entity"
"""Of a caller: who is kept to one version, where the route is sticky."""
ROUTE = "x-evergrow-route"
"""`weights` for a request that was drawn, `named` for one that asked for its version, `shadow` for a copy."""
PROPENSITY = "x-evergrow-propensity"
"""Of a request that was drawn: the probability of being drawn for this version."""
DRAWN = "x-evergrow-drawn"
"""The version that is to answer the request. To every other version, it is a copy."""
