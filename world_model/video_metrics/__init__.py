"""What the paper's tables say of a video, measured by libraries where one fits.

Everywhere, videos are ``(N, T, H, W, 3)`` uint8, or a list of ``(T, H, W, 3)`` where lengths differ.

    videos.py    checks; the adversaries: frozen, shuffled, cut-injected
    pixels.py    PSNR, SSIM, LPIPS, frame by frame against the truth (torchmetrics)
    features.py  feature extractors: EfficientNet-Lite0 (in a wheel), ResNet-18, the I3D of FVD
    frechet.py   Fréchet distances over those features, FVD among them, with interval and floor
    cuts.py      SCuts (PySceneDetect)
    revisit.py   SRC: how alike the first and later visits of a place look
"""
