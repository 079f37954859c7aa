"""The networks of the paper: backbones, sample encoder, parameter generator, dynamic layers. No I/O."""
