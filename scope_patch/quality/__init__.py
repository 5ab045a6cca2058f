"""How near an output came to its reference: PSNR, SSIM, LPIPS, failures, a strip of pictures.

Works on files alone: nothing here knows a model, a method or a host. What it needs beyond torch is in the extra
`report` and is imported where it is used.
"""
