"""The wire protocols that clients already speak, one module each: a request in, its answer out, and nothing else.

Every module offers ``router(endpoint)``. ``endpoint`` is called at each request, since Ray Serve makes the replica
after the routes.
"""
