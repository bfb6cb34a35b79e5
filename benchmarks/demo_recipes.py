"""The templates on the demo model that a command makes, pictures included."""

COLUMNS, CELL, GAP = 3, 144, 24  # of a sheet of pictures, in pixels
KIND = "flower"
SAMPLING = {"steps": 24, "sampler_name": "euler", "scheduler": "karras"}
REPAIR = (
    "## What to look at\n"
    "Six emoji are drawn, made four times smaller and enlarged again, which blurs them. Each is then sampled again at a low "
    "denoise, with no prompt: nothing tells the model what was there. Alone it leaves in between what it cannot tell. With "
    "guidance it decides: edges and colours come out clearer. What it decides on need not be what was there.\n\n"
    "## What to turn\n"
    "- **denoise** of both repairs: 0.3 keeps more of the damage, 0.6 draws more anew.\n"
    "- **scale**: 0 is off, 2 is mild, 8 is the default, 16 is strong.\n"
    "- **guidance_seed**: the same damage, another repair.\n"
    "- For a picture of yours, put Load Image and VAE Encode in the place of the damaged latent."
)


def sheet(page, images, text):
    """Pictures side by side with a text on them."""
    (single,) = page.add("RebatchImages", images=images, batch_size=1)
    (grid,) = page.add("ImageGrid", images=single, columns=COLUMNS, cell_width=CELL, cell_height=CELL, padding=0)
    return page.add("TextOverlay", images=grid, text=text, color="#ffffff")[0]


def repair(page):
    """Emoji that are drawn with a label, damaged, and sampled again at a low denoise without one."""
    model, _, vae, condition = page.add("SaddleFreeDemoModel", model="emoji", kind=KIND)
    (empty,) = page.add("ConditioningZeroOut", "No prompt", conditioning=condition)
    (latent,) = page.add("EmptyLatentImage", width=64, height=64, batch_size=2 * COLUMNS)
    guided, _ = page.add("SaddleFreeGuidance", model=model)
    page.column(300)
    (drawn,) = page.add(
        "KSampler", "First pass", model=model, positive=condition, negative=empty, latent_image=latent, seed=1, cfg=2.5,
        **SAMPLING,
    )
    first = sheet(page, page.add("VAEDecode", samples=drawn, vae=vae)[0], "the picture")
    page.column(300)
    (small,) = page.add("LatentUpscaleBy", "Damage: smaller", samples=drawn, upscale_method="area", scale_by=0.25)
    (damaged,) = page.add("LatentUpscaleBy", "Damage: enlarged", samples=small, upscale_method="bicubic", scale_by=4.0)
    second = sheet(page, page.add("VAEDecode", samples=damaged, vae=vae)[0], "damaged")
    sheets = []
    for branch, text in ((model, "repaired without"), (guided, "with saddle-free guidance")):
        page.column(300)
        (repaired,) = page.add(
            "KSampler", "Repair", model=branch, positive=empty, negative=empty, latent_image=damaged, seed=2, cfg=1.0,
            denoise=0.5, **SAMPLING,
        )
        sheets.append(sheet(page, page.add("VAEDecode", samples=repaired, vae=vae)[0], text))
    page.column(420)
    spacing = {"spacing_width": GAP, "spacing_color": "white"}
    (above,) = page.add("ImageStitch", image1=first, image2=second, **spacing)
    (below,) = page.add("ImageStitch", image1=sheets[0], image2=sheets[1], **spacing)
    (whole,) = page.add("ImageStitch", image1=above, image2=below, direction="down", **spacing)
    page.add("SaveImage", images=whole, filename_prefix=page.name)
    page.note(None, REPAIR, 620, 310)


DISTILLED = (
    "## What to look at\n"
    "Distilled models draw in few steps, and draw much the same again and again. Each row is one noise on a distilled emoji "
    "model, 8 steps: first the model alone, then seven guidance seeds, the nearest to it first. Each makes other choices "
    "where the model hung between two emoji.\n\n"
    "## What to turn\n"
    "- **difference**: how different they may be; 0 is off, 8 the default, 16 strong.\n"
    "- **count**: one more costs one more picture in each row. Set **columns** of the grid to one more than count.\n"
    "- **seeds** shows which is which; that number as **guidance_seed** of Saddle-Free Guidance makes the picture again, "
    "with **directions** 2.\n"
    "- For a turbo model of your own, connect it with its steps, sampler and CFG; the template `z-image-turbo-variations` "
    "does."
)
VARIATIONS, NOISES = 7, 3


def distilled_variety(page):
    """Variations of three noises on the distilled emoji model."""
    model, _, vae, condition = page.add("SaddleFreeDemoModel", model="emoji, 8 steps")
    (latent,) = page.add("EmptyLatentImage", width=64, height=64, batch_size=NOISES)
    page.column(330)
    images, _, seeds = page.add(
        "GuidanceVariations", model=model, positive=condition, negative=condition, latent_image=latent, vae=vae, seed=2,
        cfg=1.0, count=VARIATIONS, order="nearest first", directions=2, plain_first=True, **SAMPLING | {"steps": 8},
    )
    page.column(270)
    (single,) = page.add("RebatchImages", images=images, batch_size=1)
    (grid,) = page.add("ImageGrid", images=single, columns=VARIATIONS + 1, cell_width=128, cell_height=128, padding=0)
    page.column(840)
    page.add("SaveImage", images=grid, filename_prefix=page.name)
    page.add("PreviewAny", "Seeds and distances", source=seeds)
    page.note(None, DISTILLED, 640, 350)


TEMPLATES = {"repair": repair, "distilled-variety": distilled_variety}
