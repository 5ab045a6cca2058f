"""The parallel layout. One process by default; a test with ranks makes groups of them."""

PP_WORLD_SIZE = 1
PP_RANK = 0
CP_WORLD_SIZE = 1
CP_RANK = 0
CP_GROUP = None
PP_GROUP = None


def get_pp_group():
    return PP_GROUP


def get_cp_group():
    return CP_GROUP


def get_pp_world_size():
    return PP_WORLD_SIZE


def get_pp_rank():
    return PP_RANK


def is_pipeline_first_stage():
    return PP_RANK == 0


def is_pipeline_last_stage():
    return PP_RANK == PP_WORLD_SIZE - 1


def get_cp_world_size():
    return CP_WORLD_SIZE


def get_cp_rank():
    return CP_RANK
