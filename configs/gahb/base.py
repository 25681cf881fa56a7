"""Every key of the `gahb` experiments, with its unit and default (the paper's, where the paper gives one)."""

from ml_collections import ConfigDict

from configs import base as shared


def base() -> ConfigDict:
    """Returns the shared keys plus the denoiser's; lock it (`config.lock()`) after changing what you need."""
    config = shared.base()
    config.method = "gahb"

    config.model = model = ConfigDict()
    model.network = "unet"  # "unet" | "bf_cnn" | "bf_cnn_rf"
    model.num_kernels = 64  # channels of the first block (unet) or of every layer (bf_cnn)
    model.num_blocks = 3  # unet: times the image is halved; data.size must be divisible by 2**num_blocks
    model.num_layers = 21  # bf_cnn, bf_cnn_rf
    model.receptive_field = 43  # bf_cnn_rf: 5, 9, 13, 23 or 43 pixels
    model.first_layer_linear = False  # bf_cnn: no rectifier after the first convolution
    model.gain_init = "released"  # "released": N(0, (2/576)^2) | "unit": ones

    config.noise = noise = ConfigDict()
    noise.sigma_min = 0.0  # noise standard deviation while training, for images in [0, 1]
    noise.sigma_max = 1.0
    noise.rule = "quadratic"  # "quadratic": uniform in the square root of the level | "linear": uniform
    noise.freeze_after = 1.0  # fraction of the run after which the normalisation uses its frozen running deviations

    config.synthetic = synthetic = ConfigDict()  # data.source = "calpha" | "disks" | "sinusoids" | "scaled_image"
    synthetic.seed = 0  # of the images; the test images have another one
    synthetic.num_train = 100_000  # different training images (made when needed, so their number costs nothing)
    synthetic.num_test = 1000
    synthetic.alpha = 2.0  # calpha: regularity of the contour, above 0
    synthetic.beta = -1.0  # calpha: regularity of the two backgrounds (negative = that of the contour)
    synthetic.blur = (2, 2)  # calpha: rows and columns of the box that blurs the contour, pixels ((1, 1) = none)
    synthetic.background = "isotropic"  # calpha: "isotropic" | "separable" | "constant"
    synthetic.wrap = False  # calpha: rows above the image count from its end, as originally; hard disks: cross borders
    synthetic.antialias = 0  # calpha, hard disks: times a larger picture is halved by a low-pass filter
    synthetic.disk = "smooth"  # disks: "smooth" (anti-aliased, differentiable) | "hard" (the original's)
    synthetic.integer = False  # hard disks: centre and radius are integers
    synthetic.frequency = (1, 0)  # sinusoids: cycles a picture, downwards and across
    synthetic.image = "photographs"  # scaled_image: the data.source of the image that is multiplied by s ~ U(0, 1)
    synthetic.image_index = 0  # scaled_image: number of that training image
    synthetic.shuffle = False  # any data.source: one permutation of the pixels for all images
    synthetic.shuffle_seed = 0

    config.evaluate = evaluate = ConfigDict()
    evaluate.sigmas = tuple(each / 255 for each in (10, 25, 50, 100))  # noise of the table, for images in [0, 1]
    evaluate.curve_db = tuple(float(db) for db in range(42, -1, -3))  # PSNRs of the noisy images of the curve, dB
    evaluate.num_images = 256  # held-out images
    evaluate.batch_size = 64
    evaluate.panel_images = 3  # held-out images kept for pictures
    evaluate.panel_size = (
        0  # where training takes crops: side of their central square, pixels (0 = crops as in training)
    )
    evaluate.wiener_images = 8192  # training images from which the Wiener baseline is fitted (0 = no baseline)

    evaluate.restore = restore = ConfigDict()  # of `python -m gahb restore`, which samples with config.sampler
    restore.problems = ("inpainting", "super_resolution", "random_pixels", "random_basis", "spectral")
    restore.num = 16  # held-out images
    restore.samples = 2  # samples of each, given its measurement
    restore.size = 0  # side of the images, pixels; where training takes crops, that of a central square (0 = data.size)
    restore.hole = 0.25  # inpainting: side of the square to fill, as a fraction of the image's
    restore.scale = 4  # super_resolution: means of squares of so many pixels a side are known
    restore.fraction = 0.1  # fraction of pixels, basis vectors or frequencies that are known
    restore.baselines = ("dps", "diffpir")  # published solvers measured beside the sampler
    restore.baseline_steps = 80  # noise levels of theirs after the first: as many as the sampler's iterations
    restore.dps_weight = 0.3  # step zeta' along the gradient of the misfit
    restore.diffpir_renewal = 0.3  # zeta, the fraction of the noise that is drawn anew at each level, in (0, 1]
    restore.tune_images = 0  # training images on which the baselines' numbers are chosen, of these; 0 = those above
    restore.dps_weights = (0.1, 0.3, 1.0, 3.0)
    restore.diffpir_renewals = (0.1, 0.3, 0.6, 1.0)
    restore.impose = False  # put the measurement back into the result, which the original does not

    # The published algorithm is sampler.h0=0.01, sampler.beta=0.1, sampler.sigma_L=0.05.
    config.sampler = sampler = ConfigDict()
    sampler.num = 16  # samples
    sampler.batch_size = 64  # of them at once
    sampler.sigma_0 = 1.0  # noise standard deviation at the start, images in [0, 1]
    sampler.sigma_L = 0.02  # noise standard deviation at the end, likewise
    sampler.mean = 0.5  # intensity of the initial image
    sampler.step = 0.35  # step size h of the corrected algorithm, in (0, 1]
    sampler.beta = 0.2  # in (0, 1]: an iteration lowers the noise by the factor 1 - beta h; 1 = no injected noise
    sampler.hold = 25  # first iterations of the corrected algorithm, which stay at sigma_0
    sampler.h0 = 0.0  # first step size of the published algorithm, in (0, 1]; 0 = the corrected algorithm
    sampler.fixed_step = False  # published algorithm: steps of size h0 throughout, instead of growing ones
    sampler.max_steps = 2000  # iterations after which a sample that has not converged ends
    sampler.divergence = 2.0  # times sigma_0: a sample ends when its noise exceeds that

    config.study = study = ConfigDict()  # of `python -m gahb study`: pairs of models on disjoint training sets
    study.sizes = (1, 10, 100, 1000)  # images in each of the two training sets
    study.steps = (1000,)  # training steps, one number for each size or one for all
    study.control_steps = 40  # a pair on the largest sets trained for so few steps, as a control (0 = none)
    study.num_images = 256  # held-out images, the same for all sizes, and at most so many training images measured
    study.bootstrap = 1000  # resamplings behind each confidence interval
    study.patch = 8  # side of the patches whose origin is looked for, pixels (the paper: 20 of 80)
    study.copy_similarity = 0.9  # from which correlation on a sample, or a patch, counts as a copy
    study.trajectories = 3  # samples of each pair whose way from noise to image is kept
    study.trajectory_every = 5  # iterations between kept iterates
    # Over training time, at each kept checkpoint:
    study.checkpoint_samples = 64  # samples of which the memorised fraction is measured (0 = no checkpoint is measured)
    study.checkpoint_db = (20.0, 10.0, 0.0)  # PSNRs of the noisy training and held-out images, dB
    study.memorised_ratio = 1 / 3  # a sample is memorised if d1 / d2 (nearest, second nearest training image) is below
    study.memorised_level = 0.05  # tau_mem is the first checkpoint whose memorised fraction exceeds it
    study.settled_db = 0.25  # tau_gen is the first checkpoint whose held-out PSNR is so close to the best, dB
    # Empirical score machines and the noise level that the denoiser implies:
    study.machine_images = 8  # training images and held-out images that they are compared on (0 = none)
    study.machine_db = (26.0, 20.0, 14.0, 8.0, 2.0)  # PSNRs of the noisy images, dB
    study.windows = (3, 5, 7, 11, 15, 21)  # sides of the windows of the local machines to choose from, pixels, odd
    study.equivariant_images = 128  # training images of the equivariant machine, the first ones, at most
    study.probes = 32  # random probes of each trace

    config.classes = classes = ConfigDict()  # of `python -m gahb classes`: one model for each class of images
    # "calpha-A" (A a number), "disks", "sinusoids", "scaled_image", "images" (data.source), "shuffled" (their pixels)
    geometric, manifolds = ("calpha-1", "calpha-2", "calpha-3", "calpha-5"), ("disks", "sinusoids", "scaled_image")
    classes.names = (*geometric, *manifolds, "images", "shuffled")
    classes.steps = (2000,)  # training steps, one number for each class or one for all
    # Noise of the bases, for images in [0, 1]; likewise.
    classes.sigmas = tuple(each / 255 for each in (51, 51, 51, 51, 10.2, 20.4, 10.2, 76.5, 76.5))
    classes.window_db = (14.0, 20.0)  # PSNRs of noisy images, dB, to which slope_in_window is fitted
    classes.num_images = 256  # held-out images of each PSNR curve
    classes.oracle_images = 16  # calpha: held-out images of the oracle that knows the contour (0 = none)
    classes.seeds = 1  # models of each class, with seeds from config.seed on
    classes.basis_images = 4  # held-out images whose eigenvectors are computed
    classes.top = 20  # eigenvectors of each
    classes.probes = 64  # random probes of each trace
    classes.bootstrap = 1000  # resamplings behind each standard error of a slope

    return config
