"""The workbench in a notebook; public names are at `interp.views`.

- `token_heat`: `tokens`, a text whose tokens are shaded by a direction, a latent, a lens, the loss or a norm.
- `conversation`: `Conversation`, messages with the replies of a model and of its edits.
- `chat_widget`: `chat`, the widget of a conversation.
- `latent_card`: `feature`, a latent of a feature book.
- `difference`: `compare`, what two models or recipes expect next, or which latents two autoencoders share.
"""
