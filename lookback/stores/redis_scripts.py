"""What the server does in one step: the Lua scripts, each with its arguments and its answer.

Owns: fences, the set of rows, limits, trims, expiry, as far as they must not come apart. Refuses: the bytes
that it stores (`redis_pack`).

A script runs alone on the server, so it takes a piece of a write (`PIECE` records, about a millisecond) and
readers get their turn between pieces. Scripts begin with `#!lua`: a server out of memory then refuses a
script before its first command, never half-way.

On a cluster the store's own keys are on one node, and a script over records takes those of its node, of any slots.
A slot that is moving fails it at a record's first key or its second, before anything of the record is changed.
"""

from __future__ import annotations

from collections.abc import Sequence

# How errors of ours begin.
OWNER, LOST, TYPE, NEWER = "LOOKBACK-OWNER", "LOOKBACK-LOST", "LOOKBACK-TYPE", "LOOKBACK-NEWER"
LUA_FEATURES = 80  # set by one call: a function of Lua's takes up to some 200 values

# ARGV: job. -> the new generation, a number above all before, also above those that a failover lost
CLAIM = """#!lua
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local generation = math.max(tonumber(redis.call('GET', 'lookback:generation') or '0') + 1, now)
generation = string.format('%.0f', generation)
redis.call('SET', 'lookback:generation', generation)
redis.call('ZADD', 'lookback:claims', generation, ARGV[1])
redis.call('ZREMRANGEBYRANK', 'lookback:claims', 0, -1001)
return generation
"""

_REFUSE = """
local function refuse(key, owner)
  local job = redis.call('ZRANGEBYSCORE', 'lookback:claims', owner, owner)[1]
  return redis.error_reply('LOOKBACK-OWNER ' .. key .. ' ' .. (job or '?'))
end
"""

_WRONG = """
local function wrong(key, reply)  -- what is said of a key that can't be used as ours are
  if string.find(reply.err, 'WRONGTYPE', 1, true) then return redis.error_reply('LOOKBACK-TYPE ' .. key) end
  return reply
end
"""

# ARGV: generation, key of a shard. -> {mark, kept}; false where the store has none
TAKE = (
    "#!lua"
    + _REFUSE
    + """
local found = redis.call('HMGET', ARGV[2], 'generation', 'mark', 'kept')
if found[1] and tonumber(found[1]) > tonumber(ARGV[1]) then return refuse(ARGV[2], found[1]) end
redis.call('HSET', ARGV[2], 'generation', ARGV[1])
return {found[2], found[3]}
"""
)

_OWNED = """
local generation = ARGV[1]
for i = 2, #ARGV, 3 do
  local found = redis.call('HMGET', ARGV[i], 'generation', 'kept')
  if found[1] and tonumber(found[1]) > tonumber(generation) then return refuse(ARGV[i], found[1]) end
  local kept = found[2] or ''
  if found[1] ~= generation or (kept ~= ARGV[i + 1] and kept ~= ARGV[i + 2]) then
    return redis.error_reply('LOOKBACK-LOST ' .. ARGV[i])
  end
end
"""
_OK = "return redis.status_reply('OK')\n"

# ARGV: generation, (key of a shard, the mark that it must have kept, the mark of this write)*
# All shards are looked at before any is changed. A `kept` that is this write's own: it was written, the
# answer got lost.
BEGIN = f"#!lua{_REFUSE}{_OWNED}for i = 2, #ARGV, 3 do redis.call('HSET', ARGV[i], 'mark', ARGV[i + 2]) end\n{_OK}"

# ARGV as for BEGIN. Nothing is changed.
CHECK = f"#!lua flags=no-writes{_REFUSE}{_OWNED}{_OK}"

# ARGV as for BEGIN. A late repeat of an older write's finds another `kept` and changes nothing.
END = """#!lua
for i = 2, #ARGV, 3 do
  local found = redis.call('HMGET', ARGV[i], 'generation', 'kept')
  if found[1] == ARGV[1] and (found[2] or '') == ARGV[i + 1] then
    redis.call('HSET', ARGV[i], 'kept', ARGV[i + 2])
  end
end
return redis.status_reply('OK')
"""

# ARGV: generation, key of the shard, sequence, watermark, known, record*   (see redis_pack)
# key of the shard: empty where another node has it; then a record says whether a newer job has written it
# known: "1" where a record that isn't there is not to be made
# -> the indices of the records that are stale
_WRITE = """#!lua flags=allow-cross-slot-keys
local A, call, pcall, unpacked, has = ARGV, redis.call, redis.pcall, cmsgpack.unpack, string.find
local generation, sequence, watermark, known = A[1], A[3], A[4], A[5]
local apart = A[2] == ''
local owner = apart and generation or call('HGET', A[2], 'generation')
if owner ~= generation then
  if owner and tonumber(owner) > tonumber(generation) then return refuse(A[2], owner) end
  return redis.error_reply('LOOKBACK-LOST ' .. A[2])
end
local counted, EXACT = tonumber(sequence), 9007199254740992  -- scores are doubles
local stale_ones = {}
local function emptied(rows)  -- an error: they are no sorted set, so not ours
  local found = pcall('ZCARD', rows)
  if type(found) == 'table' then return found end
  call('DEL', rows)
end
for i = 6, #A do
  local R = unpacked(A[i])
  local key, flags, count = R[1], R[5], (#R - FIRST + 1) / 2
  local rows = key .. ':rows'
  local old = pcall('HMGET', key, '_sequence', '_as_of_ms', '_covers_from_ms', '_stale', '_expires_ms',
                    '_generation', '_status')
  if old.err then return wrong(key, old) end
  if apart and old[6] and tonumber(old[6]) > tonumber(generation) then
    return redis.error_reply('LOOKBACK-NEWER ' .. key)
  end
  local there = old[1]
  if there or known == '' then
    local taken = not there or (counted >= tonumber(there) and tonumber(R[3]) >= tonumber(old[2]))
    local replace = taken and flags ~= '' and has(flags, 'r', 1, true)
    local stale = old[4] == '1' and not replace
    local was_stale = stale
    local covered = old[3] or ''
    local covers = covered
    if taken and R[4] ~= '' and (covers == '' or tonumber(R[4]) > tonumber(covers)) then covers = R[4] end
    if not there and R[6] ~= '' and not has(flags, 'w', 1, true) then
      -- It expired: what is not given lies KEPT_MS back at least.
      local gone = call('TIME')[1] * 1000 - KEPT_MS
      if covers == '' or gone > tonumber(covers) then covers = string.format('%.0f', gone) end
    end
    if apart and replace then  -- where its slot is on the move, rows that are deleted could not be added again
      local found = pcall('ZCARD', key .. ':')
      if type(found) == 'table' then return found end
    end
    local bad = replace and emptied(rows)
    if bad then return wrong(rows, bad) end
    if flags ~= '' and has(flags, 's', 1, true) then stale = true end
    local fresh_rows = false
    if count > 0 and not stale then
      local added = pcall('ZADD', rows, unpack(R, FIRST, #R))
      if type(added) == 'table' then return wrong(rows, added) end
      local card = call('ZCARD', rows)
      fresh_rows = card <= count
      if card > LIMIT then
        if covers ~= '' and tonumber(covers) < EXACT then
          call('ZREMRANGEBYSCORE', rows, '-inf', covers)
          card = call('ZCARD', rows)
        end
        stale = card > LIMIT
      end
    end
    if stale then
      bad = not was_stale and emptied(rows)
      if bad then return wrong(rows, bad) end
      stale_ones[#stale_ones + 1] = i - 6
    elseif covers ~= covered then
      -- A reader leaves out what covers_from hides: deleting it can wait until there is a good deal of it.
      local before = covered ~= '' and math.floor(tonumber(covered) / SLACK_MS)
      if math.floor(tonumber(covers) / SLACK_MS) ~= before and tonumber(covers) < EXACT then
        call('ZREMRANGEBYSCORE', rows, '-inf', covers)
      end
    end
    if taken then
      -- One call, with no more fields than change: that is most of what a write costs.
      if old[6] ~= generation or old[7] ~= R[8] then
        SET_ALL
      elseif covers ~= covered then
        SET_COVERS
      else
        SET_VALUES
      end
      SET_MORE
      if not there and R[7] ~= '' then call('HSET', key, '_key', R[7]) end
      if R[9] ~= '' then call('HSET', key, '_life', R[9]) end
    end
    if stale ~= (old[4] == '1') then call('HSET', key, '_stale', stale and '1' or '') end
    if R[6] ~= '' then
      local later = not old[5] or tonumber(R[6]) > tonumber(old[5])
      local expires = later and R[6] or old[5]
      if later then
        call('HSET', key, '_expires_ms', expires)
        call('PEXPIREAT', key, expires)
      end
      if later or fresh_rows then call('PEXPIREAT', rows, expires) end
    end
  end
end
return stale_ones
"""

# ARGV: (key, how)*   how: "v" with the values, "j" rows joined to one string
# -> for each {head fields, all fields as HGETALL gives them or false, rows, or one string of all}; or false
READ = (
    "#!lua flags=no-writes,allow-cross-slot-keys"
    + _WRONG
    + """
local out = {}
for i = 1, #ARGV, 2 do
  local key, how = ARGV[i], ARGV[i + 1]
  local head = redis.pcall('HMGET', key, '_version', '_event_time_ms', '_as_of_ms', '_sequence', '_watermark_ms',
                           '_covers_from_ms', '_stale', '_key', '_life')
  if head.err then return wrong(key, head) end
  if not head[1] then
    out[#out + 1] = false
  else
    local stale = head[7] == '1'
    local all = (stale or string.find(how, 'v', 1, true)) and redis.call('HGETALL', key) or false
    local rows = stale and {} or redis.pcall('ZRANGE', key .. ':rows', 0, -1)
    if rows.err then return wrong(key .. ':rows', rows) end
    if string.find(how, 'j', 1, true) then rows = table.concat(rows) end
    out[#out + 1] = {head, all, rows}
  end
end
return out
"""
)


def at_home(text: str, home: str) -> str:
    """Return a script over the store's own keys, where those begin with `home`."""
    return text.replace("'lookback:", f"'{home}")


def write_script(
    features: Sequence[str], *, first: int, limit: int, slack_ms: int, kept_ms: int, version: str
) -> str:
    """Return a view's write script: its field names and bounds stand in the text, which costs least.

    features: field names. first: where in a record (counted from 1) its rows begin, the values ending there.
    """
    fields = [f"'{name}', R[{first - len(features) + at}]" for at, name in enumerate(features)]
    short = [
        "'_as_of_ms', R[3], '_event_time_ms', R[2], '_sequence', sequence, '_watermark_ms', watermark",
        *fields[:LUA_FEATURES],
    ]
    covers = ["'_covers_from_ms', covers"]
    every = [f"'_version', '{version}', '_generation', generation, '_status', R[8]", *covers]
    more = [fields[at : at + LUA_FEATURES] for at in range(LUA_FEATURES, len(fields), LUA_FEATURES)]

    def hset(parts: Sequence[str]) -> str:
        return f"call('HSET', key, {', '.join(parts)})"

    head, _, body = _WRITE.partition("\n")
    text = head + _REFUSE + _WRONG.lstrip("\n") + body
    for name, value in {
        "SET_ALL": hset([*every, *short]), "SET_COVERS": hset([*covers, *short]), "SET_VALUES": hset(short),
        "SET_MORE": "\n      ".join(map(hset, more)), "FIRST": str(first), "LIMIT": str(limit),
        "SLACK_MS": str(max(slack_ms, 1)), "KEPT_MS": str(kept_ms),
    }.items():  # fmt: skip
        text = text.replace(name, value)
    return text
