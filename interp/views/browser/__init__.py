"""The pages of a feature book, served on this machine or as a folder of files; public names are at `interp.views`.

- `application`: the web application, for any ASGI server.
- `server`: `browse`, which serves it on this machine.
- `static_folder`: `export_pages`, the pages as files.
"""
