"""The one layout of tissue data in an AnnData, as constants.

``X`` holds raw counts (CSR; rows are spots, columns genes). The rest of the layout, by place:

=================================  ===============================================================================
``obs[SECTION]``                   category: the section, also the key in ``uns[SPATIAL]``
``obs[PATIENT]``                   category: the patient, where known
``obsm[SPATIAL]``                  float64 (spot, 2): x (column) and y (row) in pixels of the full-resolution image
``obsm[FEATURES + encoder]``       float32 (spot, dim): precomputed image features
``uns[SPATIAL][section]``          per section a dict of ``IMAGES``, ``SCALEFACTORS`` and ``METADATA``
``[IMAGES][HIRES]``                uint8 (h, w, 3): the image scaled by ``HIRES_SCALE``; may be absent
``[SCALEFACTORS]``                 ``SPOT_DIAMETER`` (px), ``HIRES_SCALE`` (hires px per px), ``UM_PER_PX`` (um per px)
``[METADATA]``                     ``IMAGE`` (absolute path or empty), ``IMAGE_WIDTH``, ``IMAGE_HEIGHT`` (px; 0 where there is
                                   no image), ``TECHNOLOGY``, ``PITCH_UM`` (um between spots, where the technology
                                   fixes it)
=================================  ===============================================================================

"Pixels" are always those of the full-resolution image named in the metadata.

Bulk profiles (rows are samples) keep expression in ``X``, NaN where a value was not measured, on the scale that ``uns[UNIT]``
names, and in ``obs``:

==================================  ==============================================================================
``obs[PATIENT]``                    the patient; several samples may share one
``obs[CANCER_TYPE]``                category: the label of the sample
``obs[TIME]``, ``obs[EVENT]``       float64 days from the start, more than 0, and bool: whether the event ended them
``obs[COHORT]``, ``obs[PIPELINE]``  category: the study, and how the values were made; where known
==================================  ==============================================================================

Single cells (rows are cells) keep raw counts in ``X`` (CSR), and in ``obs``:

=================================  ===============================================================================
``obs[CELL_TYPE]``                 category: the type of the cell, where known
``obs[BATCH]``                     category: what was measured together, where known
``obs[DONOR]``                     category: the person or animal, where known
``obs[CONDITION]``                 category: what was done to the cells, where it differs
=================================  ===============================================================================

Brain samples (rows are samples of tissue, or regions) keep expression in ``X`` on the scale that ``uns[UNIT]`` names, and:

=================================  ===============================================================================
``obsm[MNI]``                      float64 (sample, 3): place in mm of the space ``uns[SPACE]``, ``"MNI152"``: x to the
                                   right, y to the front, z up. Samples that are no brain's have ``obsm[XYZ]`` instead
``obsm[TISSUE]``                   float (sample, 2): probability of grey and of white matter; may be absent
``obs[DONOR]``                     category: the person
``obs[STRUCTURE]``                 category: the anatomical structure
``obs[HEMISPHERE]``                category: ``L``, ``R``, or ``B`` where there is no side
``obs[PART]``                      category: ``cortex``, ``subcortex/brainstem``, ``cerebellum``, ``white matter`` or ``other``
``obs[SLAB]``                      category: ``CX`` cortex, ``CB`` cerebellum, ``BS`` brainstem and deep nuclei
``obs[DIVISION]``                  category: the part of the brain that the structure belongs to, where known
=================================  ===============================================================================
"""

SECTION = "section"
PATIENT = "patient"
SPATIAL = "spatial"
FEATURES = "X_"
GENE_IDS = "gene_ids"

UNIT = "unit"
CANCER_TYPE = "cancer_type"
TIME = "time"
EVENT = "event"
COHORT = "cohort"
PIPELINE = "pipeline"

CELL_TYPE = "cell_type"
BATCH = "batch"
DONOR = "donor"
CONDITION = "condition"

MNI = "mni"
XYZ = "xyz"
TISSUE = "tissue"
SPACE = "space"
DONOR = "donor"
STRUCTURE = "structure"
HEMISPHERE = "hemisphere"
PART = "part"
SLAB = "slab"
DIVISION = "division"

IMAGES = "images"
HIRES = "hires"
SCALEFACTORS = "scalefactors"
METADATA = "metadata"

SPOT_DIAMETER = "spot_diameter_fullres"
HIRES_SCALE = "tissue_hires_scalef"
LOWRES_SCALE = "tissue_lowres_scalef"
UM_PER_PX = "microns_per_pixel"

IMAGE = "image"
IMAGE_WIDTH = "image_width"
IMAGE_HEIGHT = "image_height"
TECHNOLOGY = "technology"
PITCH_UM = "pitch_um"
