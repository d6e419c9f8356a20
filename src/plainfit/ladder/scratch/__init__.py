"""What is torch.nn, really? The parts of it that scripts use, written out, each in one place.

The ladder runs on them as they are (`plainfit.ladder.on_scratch`); `plainfit.eject.rungs` copies
their text into scripts. So every definition here reads as if it stood in a script of its own, and
what only some scripts need is behind an option, which falls away where no call passes it.

    modules     Module, Parameter, Sequential, ModuleList: state and a function
    layers      modules with weights or options; what they compute are functions of `F`
    functions   functions with torch's bits
    kernels     functions that are one call of torch's own kernel
    sums        the same kernels as sums, products and indexing, which round differently
    losses      mean losses
    initial     nn.init
    optimizers  SGD, Adam, AdamW, RMSprop
    averages    gradients clipped, weights averaged
    data        TensorDataset, DataLoader
"""
