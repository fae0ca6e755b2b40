"""Attribution: which parts of the network a prediction comes from."""
