# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [raw]
# The source of both notebooks: `python notebooks/build.py` makes them. A text has a cell in each
# language. A code cell that is `# rung 05: ...` stands for those statements of the rung's program,
# and a text cell `diff 04 05` for what that rung changes.

# %% [markdown] lang="en"
# # What is torch.nn, really?
#
# PyTorch comes with `torch.nn`, `torch.optim`, `Dataset` and `DataLoader`. This tutorial trains the
# same kind of model fifteen times. The first time there is nothing but tensors. Each time after that
# one of those parts takes the place of lines that we wrote ourselves, so that you can see what it
# does, and what it does not do.
#
# Each step is called a *rung*. The code of every rung comes from a program that also runs alone
# (`plainfit ladder show 05`), and `plainfit ladder` proves what is said here about equal results. You
# should know some Python, and what a tensor is. After each heading you find what changes from the rung
# before: lines with `-` go, lines with `+` come.

# %% [markdown] lang="zh-CN"
# # torch.nn 到底是什么？
#
# PyTorch 提供了 `torch.nn`、`torch.optim`、`Dataset` 和 `DataLoader`。本教程把同一类模型训练十五遍：第一遍只用
# tensor，之后每一遍都用上述的某一个部件替换掉我们自己手写的几行代码。这样你就能看清它做了什么，以及没有做什么。
#
# 每一步称为一“级”（rung），像梯子的一级。每一级的代码都取自一个可以单独运行的小程序（`plainfit ladder show 05`），文中
# 关于“结果相同”的说法都由 `plainfit ladder` 实际验证。你只需要会一点 Python，知道 tensor 是什么。每个标题下面先列出
# 与上一级的差别：`-` 开头的行被删去，`+` 开头的行是新加的。

# %% [markdown] lang="en"
# The embedded digits are 1,797 images of 8x8 pixels; they need no download. To use MNIST, change this
# cell to `"mnist"` and run everything again. MNIST has 50,000 training images of 28x28 pixels, so two
# passes over it (*epochs*) are enough, as in the original tutorial; the digits get twenty.

# %% [markdown] lang="zh-CN"
# 内置的 digits 数据集有 1797 张 8x8 像素的图片，无需下载。想用 MNIST，只要把下面这个单元格改成 `"mnist"`，再全部运行一遍。
# MNIST 有 50000 张 28x28 的训练图片，跑两遍（两个 *epoch*）就够了，原教程也是如此；digits 很小，我们跑二十遍。

# %%
DATA = "digits"  # or "mnist"

# %%
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

import plainfit as pf
from plainfit.ladder.climb import usual_epochs, write_data

data = pf.open_data(DATA)
epochs = usual_epochs(data.counts()["train"])
args = SimpleNamespace(data=Path(tempfile.mkdtemp(), "data.npz"), epochs=epochs, seed=0)
write_data(data, args.data)  # what `plainfit ladder copy` puts beside a program
torch.manual_seed(args.seed)

# %% [markdown] lang="en"
# ## Rung 00: from a file to tensors
#
# Data comes from somewhere, often as a download. The tutorial unpickles its download, and a pickle can
# run any program. MNIST's own files are plain bytes: a header of 16 or 8 bytes, then one byte for each
# pixel or label. Their SHA-256 tells whether they are the right ones; if not, the program stops.

# %% [markdown] lang="zh-CN"
# ## 第 00 级：从文件到 tensor
#
# 数据总要从某处来，常常是下载。原教程用 pickle 读取下载的文件，而 pickle 可以运行任意程序。MNIST 自己的文件只是普通的字节：
# 16 或 8 个字节的文件头，然后每个像素或标签一个字节。用 SHA-256 核对文件是否正确；不对，程序就停止。

# %%
# rung 00: gzip, hashlib, urllib.request, np, URL, FOLDER, IMAGES, SHA256, download

# %% [markdown] lang="en"
# Here `args.data` names a file, and nothing is downloaded: a `.npz` holds NumPy arrays by name.

# %% [markdown] lang="zh-CN"
# 这里 `args.data` 已经指定了一个文件，所以不必下载：`.npz` 文件按名字保存若干个 NumPy 数组。

# %%
# rung 00: reading, arrays

# %% [markdown] lang="en"
# An image is a square of bytes, from 0 for the background to 255 for full ink. Look at one before you
# train on thousands:

# %% [markdown] lang="zh-CN"
# 一张图片是一个由字节组成的正方形，从 0（背景）到 255（最浓的墨迹）。在用成千上万张图片训练之前，先看一张：

# %%
# rung 00: side, picture, label

# %% [markdown] lang="en"
# PyTorch works with tensors, so the arrays become tensors. Each image becomes a row of numbers from 0
# to 1; dividing by 256, a power of two, is exact.

# %% [markdown] lang="zh-CN"
# PyTorch 用的是 tensor，所以把数组转换成 tensor。每张图片变成一行 0 到 1 之间的数；256 是 2 的幂，除以它没有舍入误差。

# %%
# rung 00: x_train, n, tensors, labels

# %% [markdown] lang="en"
# Reshaped to a square, a row is an image again. Here are the first twenty, with their labels:

# %% [markdown] lang="zh-CN"
# 把一行重新排成正方形，就又是一张图片。下面是前二十张图片和它们的标签：

# %%
from plainfit.common.plots import sample_sheet

images = [row.view(side, side) for row in x_train[:20]]
sample_sheet(images, [data.classes[label] for label in y_train[:20]], columns=10)

# %% [markdown] lang="en"
# ## Rung 01: logistic regression, all by hand
#
# The model is one matrix of weights and one row of biases: for each image it gives ten scores, one a
# class. The weights start as small random numbers; divided by the square root of the number of inputs
# (Xavier initialisation), the scores are neither tiny nor huge. `requires_grad` asks autograd to
# record what is done with a tensor, so that the gradient can be computed from the record. It is set
# after the weights are made, because making them is not to be part of the record.

# %% [markdown] lang="zh-CN"
# ## 第 01 级：逻辑回归，全部手写
#
# 模型就是一个权重矩阵加一行偏置：每张图片得到十个分数，一个类别一个。权重从很小的随机数开始；除以输入个数的平方根
# （Xavier 初始化），分数就既不会太小也不会太大。`requires_grad` 让 autograd 记录对这个 tensor 做过的运算，之后就能根据
# 记录求出梯度。它要在权重生成之后再打开，因为生成权重这一步不应该被记录。

# %%
# rung 01: math, n, classes, bs, lr, weights, bias

# %% [markdown] lang="en"
# Scores become probabilities by *softmax*, $p_i = e^{x_i} / \sum_j e^{x_j}$. Its logarithm is simpler:
# $\log p_i = x_i - \log \sum_j e^{x_j}$. A model is any function that you can call: this one is three
# operations, and autograd needs to know no more.

# %% [markdown] lang="zh-CN"
# 分数经过 *softmax* 变成概率：$p_i = e^{x_i} / \sum_j e^{x_j}$。取对数之后更简单：
# $\log p_i = x_i - \log \sum_j e^{x_j}$。任何可以调用的函数都可以当模型：这里只有三步运算，autograd 不需要知道更多。

# %%
# rung 01: log_softmax, model

# %% [markdown] lang="en"
# The loss is the *negative log-likelihood*, the mean of $-\log p$ of the right classes: 0 if the model
# is certain and right, large if it is certain and wrong. The accuracy is how often the highest score is
# the right one.

# %% [markdown] lang="zh-CN"
# 损失是*负对数似然*：正确类别的 $-\log p$ 的平均值。模型有把握而且答对，它就是 0；有把握却答错，它就很大。准确率是最高分
# 恰好落在正确类别上的比例。

# %%
# rung 01: nll, loss_func, accuracy

# %% [markdown] lang="en"
# Before any training the model guesses: each of ten classes has about the probability 1/10, and
# $-\log(1/10) = \log 10 \approx 2.30$.

# %% [markdown] lang="zh-CN"
# 训练之前，模型只能瞎猜：十个类别各自的概率大约是 1/10，而 $-\log(1/10) = \log 10 \approx 2.30$。

# %%
# rung 01: xb, before

# %% [markdown] lang="en"
# Now the training loop. For each batch: compute the predictions, compute the loss, let `backward()`
# compute the gradients, and move weights and bias a little against them. The update happens under
# `no_grad`, since it is not to be recorded. Afterwards the gradients are set to zero, because
# `backward()` *adds* to what is there.
#
# To look inside, uncomment `breakpoint()` and run the cell: the debugger stops in the first batch.
# Type `p xb.shape` or `p loss` to see values, `n` to go on by a line, `c` to go on to the next batch,
# `q` to stop. After an error, `%debug` in a new cell opens the debugger where it happened.

# %% [markdown] lang="zh-CN"
# 接下来是训练循环。对每个 batch：算出预测，算出损失，用 `backward()` 求梯度，再让权重和偏置朝梯度的反方向挪一小步。更新放在
# `no_grad` 里，因为这一步不应该被记录。最后把梯度清零，因为 `backward()` 是在已有的梯度上*累加*。
#
# 想看看里面发生了什么？去掉 `breakpoint()` 前面的注释再运行：调试器会停在第一个 batch。输入 `p xb.shape` 或 `p loss` 查看
# 数值，`n` 执行下一行，`c` 继续到下一个 batch，`q` 退出。出错之后，在新单元格里运行 `%debug`，就能在出错的位置打开调试器。

# %%
# rung 01: training, after

# %% [markdown] lang="en"
# The last batch has a low loss. What has the model learned? Each column of the weights, as an image,
# shows where a class wants ink (red) and where it does not (blue).

# %% [markdown] lang="zh-CN"
# 最后一个 batch 的损失已经很低。模型学到了什么？把权重的每一列画成图片，就能看到每个类别希望哪里有笔画（红）、哪里没有（蓝）。

# %%
from plainfit.common.plots import Picture

columns = weights.detach().t().view(classes, side, side)
picture = Picture(figsize=(10, 1.4), layout="constrained")
for axis, column, name in zip(picture.subplots(1, classes), columns, data.classes):
    axis.imshow(column, cmap="RdBu_r", vmin=-columns.abs().max(), vmax=columns.abs().max())
    axis.set_title(name, fontsize=8)
    axis.set_axis_off()
picture

# %% [markdown] lang="en"
# ## Rung 02: F.cross_entropy
#
# `torch.nn.functional`, usually imported as `F`, has such functions. `F.cross_entropy` is log softmax and
# negative log-likelihood in one, so the model can return plain scores. It subtracts the highest score
# first, so that `exp` cannot overflow. That rounds differently: losses are not equal bit for bit any
# more, but the mathematics is the same. In float64 the two rungs stay within $10^{-12}$ of each other.

# %% [markdown] lang="zh-CN"
# ## 第 02 级：F.cross_entropy
#
# `torch.nn.functional`（习惯上写作 `F`）里有许多现成的函数。`F.cross_entropy` 把 log softmax 和负对数似然合二为一，于是模型
# 只需返回原始分数。它会先减去最高分，这样 `exp` 就不会溢出。舍入方式因此略有不同：损失不再逐位相等，但数学上是一回事。在
# float64 下，两级之间的差始终小于 $10^{-12}$。

# %% [markdown]
# diff 01 02

# %%
# rung 02: F, weights, bias, model, loss_func, xb, before, training, after

# %% [markdown] lang="en"
# ## Rung 03: nn.Module and nn.Parameter
#
# The loop names `weights` and `bias` one by one. With a larger model one would be forgotten. An
# `nn.Module` knows its parameters: every attribute that is an `nn.Parameter` registers itself, and
# `parameters()` returns them all. Calling the module calls its `forward`. `model.zero_grad()` clears
# all gradients. With the same initial values this rung gives the same bits as the one before. (Here
# each rung draws new random numbers, so the printed numbers differ; `plainfit ladder` gives both the
# same start.)

# %% [markdown] lang="zh-CN"
# ## 第 03 级：nn.Module 与 nn.Parameter
#
# 循环里逐个写出 `weights` 和 `bias`，模型一大就难免漏掉。`nn.Module` 知道自己有哪些参数：凡是 `nn.Parameter` 类型的属性都会
# 自动登记，`parameters()` 返回全部。调用模块就是调用它的 `forward`；`model.zero_grad()` 清掉所有梯度。初始值相同时，这一级与
# 上一级的结果逐位相同。（在本文中，每一级都会重新抽取随机数，所以打印的数字不同；`plainfit ladder` 会让两级从同样的初始值开始。）

# %% [markdown]
# diff 02 03

# %%
# rung 03: nn, MnistLogistic, model, xb, before, training, after

# %% [markdown] lang="en"
# ## Rung 04: nn.Linear
#
# A weighted sum with a bias is so common that there is a layer for it. `nn.Linear` makes its own
# parameters, with initial values of another kind (uniform, between plus and minus one over the square
# root of the number of inputs), and so the numbers below differ from those above. From equal initial
# values it computes the same; product and sum are fused, which can change the last bit.

# %% [markdown] lang="zh-CN"
# ## 第 04 级：nn.Linear
#
# “加权求和再加偏置”太常用了，所以有专门的层。`nn.Linear` 自己创建参数，初始值的取法也不同（在正负“输入个数平方根的倒数”之间
# 均匀取值），因此下面的数字和上面不同。如果初始值相同，它算的就是同一件事；只是乘法和加法被合并了，最后一位可能不一样。

# %% [markdown]
# diff 03 04

# %%
# rung 04: MnistLogistic, model, xb, before, training, after

# %% [markdown] lang="en"
# ## Rung 05: optim.SGD
#
# The update is a rule of its own: plain gradient descent here, others later. An optimizer holds the
# parameters and the rule, so the loop says `opt.step()` and `opt.zero_grad()`, whatever the rule.
# `get_model` makes both, since from now on we need them often.
#
# The bits are the same as before. That is luck of a kind: the rate 0.5 is a power of two, and a product
# with such a number is exact.

# %% [markdown] lang="zh-CN"
# ## 第 05 级：optim.SGD
#
# 更新参数本身就是一套规则：这里是最普通的梯度下降，以后会有别的。优化器保管参数和规则，循环里只要写 `opt.step()` 和
# `opt.zero_grad()`，用什么规则都一样。`get_model` 同时创建两者，后面会经常用到。
#
# 结果与上一级逐位相同。这里有一点运气：学习率 0.5 是 2 的幂，乘以这样的数没有舍入误差。

# %% [markdown]
# diff 04 05

# %%
# rung 05: optim, get_model, model, xb, before, training, after

# %% [markdown] lang="en"
# ## Rung 06: TensorDataset
#
# Inputs and labels are cut apart twice, by the same indices. A *dataset* is anything that has a length
# and can be indexed. `TensorDataset` indexes all its tensors at once.

# %% [markdown] lang="zh-CN"
# ## 第 06 级：TensorDataset
#
# 输入和标签用同样的下标各切了一次。凡是有长度、可以用下标访问的对象，都可以当 *Dataset*。`TensorDataset` 一次下标就同时取出
# 所有 tensor 的对应部分。

# %% [markdown]
# diff 05 06

# %%
# rung 06: TensorDataset, train_ds, model, xb, before, training, after

# %% [markdown] lang="en"
# ## Rung 07: DataLoader
#
# Counting batches is still our work. A `DataLoader` does it: it takes a dataset and gives batches. The
# loop is now over what it is about, `xb` and `yb`.

# %% [markdown] lang="zh-CN"
# ## 第 07 级：DataLoader
#
# 数 batch 的活还是我们自己在干。`DataLoader` 接过去：给它一个 Dataset，它给你一个个 batch。循环里剩下的就只有真正关心的 `xb`
# 和 `yb` 了。

# %% [markdown]
# diff 06 07

# %%
# rung 07: DataLoader, c, train_dl, model, xb, before, training, after

# %% [markdown] lang="en"
# ## Rung 08: shuffled batches, a validation loss
#
# A loss on training samples says little: the model may have learned them by heart. So we hold samples
# back, the *validation set*, and compute the loss on them after each epoch. Training batches are
# shuffled, so that no batch is always the same; the validation set is not, since its loss does not
# depend on the order. Its batches are twice as large: without gradients there is less to remember.
# `model.train()` and `model.eval()` tell layers such as dropout and batch norm which pass it is.

# %% [markdown] lang="zh-CN"
# ## 第 08 级：打乱顺序，加上验证
#
# 训练样本上的损失说明不了多少：模型可能只是把它们背下来了。所以要留出一部分样本作为*验证集*，每个 epoch 之后在上面计算损失。
# 训练数据要打乱，免得每次的 batch 都一样；验证集不必，因为它的损失与顺序无关。验证的 batch 可以大一倍：不求梯度，要记住的
# 东西就少。`model.train()` 和 `model.eval()` 告诉 dropout、batch norm 这样的层现在是训练还是推断。

# %% [markdown]
# diff 07 08

# %%
# rung 08: train_ds, train_dl, valid_ds, valid_dl, model, training

# %% [markdown] lang="en"
# Like the tutorial's listing, this divides the sum of the batches' losses by the number of batches.
# The last batch is smaller, and counts as much as the others. The mean of the samples is a little
# different:

# %% [markdown] lang="zh-CN"
# 和原教程的代码一样，这里用各 batch 损失之和除以 batch 的个数。可是最后一个 batch 更小，却和别的 batch 一样算数。按样本
# 求平均，结果略有不同：

# %%
with torch.no_grad():
    by_sample = loss_func(model(x_valid), y_valid)
print(f"mean of batch means {valid_loss:.4f}, mean of samples {by_sample:.4f}")

# %% [markdown] lang="en"
# ## Rung 09: loss_batch, fit and get_data
#
# Training and validation compute a loss in the same way, so that is a function: `loss_batch`, which
# takes a step only if it gets an optimizer. The loop becomes `fit`, and the loaders come from
# `get_data`. The validation loss now weighs each batch by its size. Three lines are left, and they
# train any model on any data.

# %% [markdown] lang="zh-CN"
# ## 第 09 级：loss_batch、fit 与 get_data
#
# 训练和验证计算损失的过程是一样的，把它写成函数 `loss_batch`：给了优化器才更新参数。循环成了 `fit`，数据由 `get_data` 提供。
# 验证损失现在按 batch 的大小加权。最后只剩三行，任何模型、任何数据都能用它们训练。

# %% [markdown]
# diff 08 09

# %%
# rung 09: train_ds, valid_ds, get_data, loss_batch, fit

# %%
# rung 09: train_dl, model, training

# %% [markdown] lang="en"
# ## Rung 10: three convolutions, momentum
#
# Nothing in `fit` says what the model is. Here is another one: three convolutions, each of which
# halves the image (a stride of 2), with `relu` between them, and a mean over what is left. SGD gets
# *momentum*: it also remembers the direction of the steps before, and usually arrives sooner.
#
# The tutorial's listing calls `conv2` twice and never `conv3`; ours calls each once. And its last `relu`
# stands behind the scores. If a class's score is below zero for all images, it becomes zero, no
# gradient comes through, and zero it stays: the class is dead. On the small digits that happens, and
# three strides of 2 leave one single pixel, so do not be surprised that this model is worse than the
# simple one there. On MNIST the median of twenty runs is 0.25, and 0.31 for the simple one.

# %% [markdown] lang="zh-CN"
# ## 第 10 级：三层卷积，加上 momentum
#
# `fit` 里没有一处写明模型是什么。换一个：三层卷积，每层把图片缩小一半（stride 为 2），之间用 `relu`，最后对剩下的像素求平均。
# SGD 加上 *momentum*（动量）：它还记得之前几步的方向，通常更快收敛。
#
# 原教程的代码调用了两次 `conv2`，`conv3` 一次也没用；我们各用一次。另外它最后一个 `relu` 放在分数之后：如果某个类别的分数对
# 所有图片都小于零，它就变成零，梯度传不回来，以后也一直是零：这个类别“死”了。在很小的 digits 上确实会这样，而且三次 stride 2 之后只剩一个像素，
# 所以这个模型在 digits 上不如前面的简单模型，不必惊讶。在 MNIST 上，二十次运行的验证损失中位数是 0.25，简单模型是 0.31。

# %% [markdown]
# diff 09 10

# %%
# rung 10: side, grid, lr, MnistCNN, get_model, train_dl, model, training

# %% [markdown] lang="en"
# ## Rung 11: nn.Sequential and Lambda
#
# This model calls its layers one after the other, and `nn.Sequential` is a module that does so. It
# needs layers, and PyTorch has none for `view`: `Lambda` makes a layer of any function. Same initial
# values, same bits.

# %% [markdown] lang="zh-CN"
# ## 第 11 级：nn.Sequential 与 Lambda
#
# 这个模型只是依次调用各层，`nn.Sequential` 正是做这件事的模块。它需要的是层，而 PyTorch 没有对应 `view` 的层：`Lambda` 可以把
# 任何函数变成层。初始值相同，结果逐位相同。

# %% [markdown]
# diff 10 11

# %%
# rung 11: Lambda, preprocess, get_model, train_dl, model, training

# %% [markdown] lang="en"
# ## Rung 12: WrappedDataLoader, AdaptiveAvgPool2d
#
# Two things in the model know the size of the image: the first layer, which reshapes it, and the pool.
# The first moves into the data: a wrapper passes each batch through a function. `AdaptiveAvgPool2d(1)`
# takes the mean of whatever is left. Now images of any size will do.

# %% [markdown] lang="zh-CN"
# ## 第 12 级：WrappedDataLoader 与 AdaptiveAvgPool2d
#
# 模型里有两处写死了图片大小：第一层的形状变换和最后的池化。前者挪到数据那边：用一个包装让每个 batch 先经过一个函数。
# `AdaptiveAvgPool2d(1)` 则不管剩下多大都求平均。这样任何大小的图片都能用。

# %% [markdown]
# diff 11 12

# %%
# rung 12: preprocess, WrappedDataLoader, get_model, train_dl, valid_dl, model, training

# %% [markdown] lang="en"
# ## Rung 13: an accelerator where there is one
#
# A model and its batches have to be on the same device. The wrapper is the place to move the batches,
# and `.to(dev)` moves the model. Without a GPU `dev` is the CPU, and nothing changes, not one bit.
#
# The tutorial prints a much better loss here. That is not the GPU's doing: its listing makes no new model,
# and goes on with the one that was trained on the rung before.

# %% [markdown] lang="zh-CN"
# ## 第 13 级：有加速器就用加速器
#
# 模型和 batch 必须在同一个设备上。包装正好是搬运 batch 的地方，`.to(dev)` 则搬运模型。没有 GPU 时 `dev` 就是 CPU，一个比特也
# 不会变。
#
# 原教程在这里打印的损失好了很多，但那不是 GPU 的功劳：它的代码没有新建模型，而是接着训练上一级已经训练过的模型。

# %% [markdown]
# diff 12 13

# %%
# rung 13: dev, preprocess, get_model, train_dl, valid_dl, model, training

# %% [markdown] lang="en"
# ## Rung 14: the three lines, by the library
#
# plainfit is these functions, ready to use. `pf.get_data`, `pf.get_model` and `pf.fit` do what the rungs
# did, and from equal initial values in an equal order they give the same bits at every step. Here the
# start differs from that of rung 13, so the numbers differ, and on the digits they may differ much:
# it depends on how many classes die.

# %% [markdown] lang="zh-CN"
# ## 第 14 级：用库来写这三行
#
# plainfit 就是把这些函数做成现成的库。`pf.get_data`、`pf.get_model`、`pf.fit` 做的事和前面各级完全一样：初始值和顺序相同，每一步
# 就都逐位相同。这里的初始值与第 13 级不同，所以数字也不同；在 digits 上可能差很多，取决于有多少个类别“死”掉。

# %% [markdown]
# diff 13 14

# %%
# rung 14: pf, classes, bs, lr, train_ds, valid_ds, loss_func, train_dl, model

# %%
# rung 14: training

# %% [markdown] lang="en"
# To change the model, change one word. A small residual network has no dead classes, and a few
# epochs are enough. `fit` returns a history, which plots the loss.

# %% [markdown] lang="zh-CN"
# 换一个模型，只要换一个词。小型残差网络没有“死掉”的类别，几轮就够了；`fit` 还会返回训练过程中的数字，可以画出损失如何下降。

# %%
model, opt = pf.get_model("resnet", lr=lr, momentum=0.9, classes=classes, seed=args.seed)
epochs = min(args.epochs, 5)
history = pf.fit(
    epochs, model, loss_func, opt, train_dl, valid_dl, metrics=[pf.accuracy], echo=None
)
history.plot()

# %% [markdown] lang="en"
# Where does it still go wrong? Each row of the *confusion matrix* is a true class, each column a
# predicted one.

# %% [markdown] lang="zh-CN"
# 它还会在哪里出错？*混淆矩阵*的每一行是真实类别，每一列是预测类别。

# %%
with torch.no_grad():
    predicted = model(x_valid.to(dev)).argmax(dim=1).cpu()
confusion = torch.bincount(y_valid * classes + predicted, minlength=classes**2).view(
    classes, classes
)
picture = Picture(figsize=(5, 4.5), layout="constrained")
axis = picture.subplots()
axis.imshow(confusion, cmap="Blues")
axis.set(xlabel="predicted", ylabel="true", xticks=range(classes), yticks=range(classes))
axis.set_xticklabels(data.classes)
axis.set_yticklabels(data.classes)
for true in range(classes):
    for guess in range(classes):
        count = int(confusion[true, guess])
        color = "white" if count > confusion.max() / 2 else "black"
        axis.text(guess, true, count, ha="center", va="center", fontsize=8, color=color)
picture

# %% [markdown] lang="en"
# ## Rung 15: two processes, one training
#
# Where one computer is too slow, several share the work: each computes the gradients of a part of every
# batch, all add them up, and so all take the same step. `torch.distributed` does the addition:
# after `all_reduce`, every process has the sum. Here, two processes of this computer train together.
# `fork` makes the second one as a copy of the first, with its data, its model and the order of its
# samples, so both go through the same batches. Only one of them prints.
#
# What changes from rung 13:

# %% [markdown] lang="zh-CN"
# ## 第 15 级：两个进程，一次训练
#
# 一台计算机太慢时，可以由几台分担：每台只计算每个 batch 中一部分样本的梯度，再把所有梯度加起来，于是大家走的是同一步。加法由
# `torch.distributed` 完成：`all_reduce` 之后，每个进程都得到总和。这里由本机的两个进程一起训练。`fork` 把第一个进程原样复制成
# 第二个，数据、模型和样本的顺序都在内，所以两者经过的 batch 完全相同。只有其中一个负责打印。
#
# 与第 13 级的差别：

# %% [markdown]
# diff 13 15

# %%
# rung 15: tempfile, get_context, dist, shards, processes, torch, preprocess, get_model, loss_batch

# %% [markdown] lang="en"
# The loss of a piece counts by its share of the samples, so the sum of these losses is the mean over the
# batch, and the sum of their gradients is its gradient. The value of `loss` is replaced by that sum
# before `backward()`, which does not look at it.

# %% [markdown] lang="zh-CN"
# 每一块的损失按它的样本所占的比例计入，所以这些损失之和就是整个 batch 的平均值，梯度之和就是整个 batch 的梯度。`loss` 的数值在
# `backward()` 之前就换成了总和；`backward()` 并不使用这个数值。

# %%
# rung 15: fit, work, train

# %%
# rung 15: train_dl, valid_dl, model, training

# %% [markdown] lang="en"
# One process that computes both pieces gets the same bits, because $a + b$ is $b + a$:

# %% [markdown] lang="zh-CN"
# 由一个进程计算全部两块，结果逐位相同，因为 $a + b$ 就是 $b + a$：

# %%
most = processes
for processes in (most, 1):
    torch.manual_seed(args.seed)
    model, opt = get_model()
    train(1, model, loss_func, opt, train_dl, valid_dl)
    print(f"processes {processes}: biases {model[0].bias[:4].tolist()} ...")

# %% [markdown] lang="en"
# Compared with rung 14 the sums are rounded differently: that of 64 samples is not, bit for bit, that of
# 32 plus that of the other 32. And from three pieces on the order of the additions counts: in floating
# point, $(a + b) + (c + d)$ is not $((a + b) + c) + d$. `pf.fit` adds 8 pieces two by two, always in the
# same order, so a training has the same bits on 1, 2, 3 or 8 processes.

# %% [markdown] lang="zh-CN"
# 与第 14 级相比，求和的舍入不同：64 个样本的和，并不逐位等于 32 个的和加上另外 32 个的和。从三块起，相加的顺序也有影响：在浮点数
# 中，$(a + b) + (c + d)$ 不等于 $((a + b) + c) + d$。`pf.fit` 把 8 块两两相加，顺序始终不变，所以用 1、2、3 或 8 个进程训练，
# 结果都逐位相同。

# %% [markdown] lang="en"
# ## Which results are equal?
#
# `plainfit ladder` runs every rung and the one before from the same initial values and in the same
# order, and compares every loss and every parameter. Here are the rungs of this tutorial:

# %% [markdown] lang="zh-CN"
# ## 哪些结果是相等的？
#
# `plainfit ladder` 让每一级和它的上一级从相同的初始值、以相同的顺序运行，逐步比较每个损失和每个参数。这就是本教程的各级：

# %%
from plainfit.ladder.catalog import RUNGS
from plainfit.ladder.climb import climb
from plainfit.ladder.runner import Setting

for row in climb(RUNGS, Setting(args.data, min(args.epochs, 4))):  # a few epochs are enough
    rung, result = row.trace.rung, "holds" if row.holds else "BROKEN"
    print(f"{rung.label} {rung.adds:38} {row.relation:8} {result}")

# %% [markdown] lang="en"
# `bitwise` means equal bits at every step. `float64` means the same mathematics, rounded differently: in
# float64 the difference stays below $10^{-12}$. A `changed` rung computes something new, and has to show
# that it learns. All rungs read the same data.
#
# ## What torch.nn is
#
# - **`nn.Module`** is a callable with state: its attributes that are parameters or modules register
#   themselves, so that they can be listed, moved, saved and cleared.
# - **`nn.Parameter`** is a tensor that a module trains.
# - **`torch.nn.functional`** has functions without state: losses, activations, convolutions.
# - **`torch.optim`** has update rules as objects: `step()` and `zero_grad()`.
# - **`Dataset`** is anything with a length and an index; `TensorDataset` makes one of tensors.
# - **`DataLoader`** turns a dataset into batches, shuffled if asked.
#
# To see how each is made, read the folder `plainfit/ladder/scratch`: the same parts and more, written from
# tensors and autograd in about 950 lines of code. `plainfit ladder --scratch` runs the rungs on it.
#
# And to make a rung your own: `plainfit ladder copy 13 mine`.
#
# At its end the tutorial names what you will want next: data augmentation, hyperparameter tuning,
# monitoring, transfer learning. All four are added around the three lines, which stay as they are.

# %% [markdown] lang="zh-CN"
# `bitwise` 表示每一步都逐位相等。`float64` 表示数学上相同、只是舍入不同：在 float64 下差别始终小于 $10^{-12}$。`changed` 表示
# 换了新东西，它必须证明自己确实在学习。所有各级读取的数据都相同。
#
# ## torch.nn 是什么
#
# - **`nn.Module`**：带状态的可调用对象。凡是参数或模块的属性都会自动登记，因而可以列出、搬运、保存和清零。
# - **`nn.Parameter`**：由模块训练的 tensor。
# - **`torch.nn.functional`**：没有状态的函数，如损失、激活、卷积。
# - **`torch.optim`**：把更新规则做成对象，只有 `step()` 和 `zero_grad()`。
# - **`Dataset`**：有长度、可用下标访问的任何对象；`TensorDataset` 用 tensor 做成一个。
# - **`DataLoader`**：把 Dataset 变成一个个 batch，需要时打乱顺序。
#
# 想知道它们各自是怎么做出来的，请读文件夹 `plainfit/ladder/scratch`：同样的部件（还有更多），只用 tensor 和 autograd 写成，大约 950 行代码。
# `plainfit ladder --scratch` 会在它上面运行各级程序。
#
# 想把某一级变成自己的程序：`plainfit ladder copy 13 mine`。
#
# 原教程最后列出了你接下来会想要的东西：数据增强、超参数调优、训练监控、迁移学习。它们都加在这三行的外面，三行本身保持不变。
