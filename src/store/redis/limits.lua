-- Takes all items of a request or none, renews what it holds, or gives it back.
--
-- ARGV: what to do ("take", "renew", "give", "look"); now in microseconds, or nothing for the clock of this server; the id of the
-- request; for how many milliseconds it holds what it does not renew; the epoch that is known, or nothing for any (look: one to
-- begin, where there is none); then for each item its kind and four more texts:
--   rate   take: microseconds that the cost takes to come back          give: those used beyond it, those not used
--   look   as rate, but only told how it stands
--   place  take: limit
--   spend  cost, limit (take only); until when it is kept in milliseconds (or nothing: for ever); what was spent, three words for each
--          data folder: its name, when it read the ledger (0 where another one says it), and what it spent in all
-- KEYS: that of the epoch, and for each item:
--   rate, look  the moment in microseconds at which nothing will be used any more; and, for rate, the moment at which the request
--               that was refused last shall come back
--   place       sorted set: who holds one, by the millisecond at which it comes back
--   spend       hash: reserved, and `c:` with the id of a request for what that one reserved; spent, and `o:` with the name of a
--               data folder for what it spent of that; and a sorted set like that of places. Nano-units.
-- The epoch is a name that this server has for as long as it forgets nothing: without it, or with another one, nothing in it is the
-- whole.
-- Returned by "take": which item is not there (0 = all were; -1 = another epoch, nobody looked), microseconds to wait for it, and for
-- each item the microseconds until all of its rate is back, or how many hold a place. By "look": the epoch.
--
-- A double holds whole numbers up to 2^53: microseconds since 1970 until the year 2255. Money may be more, and is counted in
-- two parts.
local MINUTE = 60000000
-- Thirty years: nothing is put further ahead, so that no number loses its last digits.
local FAR = 1000000000000000
-- What is kept for ever goes when nobody asked for it in so many milliseconds; the ledger tells it again.
local LONG = 34560000000
local UNIT = 1000000000

-- What is left of a budget is set aside: something may come back as soon as this.
local SOON = 1000000

local op, now, id, ttl, epoch = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local ms = math.floor(now / 1000)

local function whole(number)
  return string.format('%.0f', number)
end

-- Units and the rest of one.
local function money(text)
  text = text or '0'
  if #text <= 9 then
    return { 0, tonumber(text) }
  end
  return { tonumber(string.sub(text, 1, -10)), tonumber(string.sub(text, -9)) }
end

local function written(amount)
  if amount[1] == 0 then
    return whole(amount[2])
  end
  return string.format('%.0f%09.0f', amount[1], amount[2])
end

local function at_most(one, other)
  return one[1] < other[1] or (one[1] == other[1] and one[2] <= other[2])
end

local function larger(one, other)
  return at_most(one, other) and other or one
end

local function plus(one, other)
  local units, rest = one[1] + other[1], one[2] + other[2]
  if rest >= UNIT then
    units, rest = units + 1, rest - UNIT
  end
  return { units, rest }
end

local function minus(one, other)
  if at_most(one, other) then
    return { 0, 0 }
  end
  local units, rest = one[1] - other[1], one[2] - other[2]
  if rest < 0 then
    units, rest = units - 1, rest + UNIT
  end
  return { units, rest }
end

if op == 'look' then
  epoch = redis.call('GET', KEYS[1]) or epoch
  -- Written each time: a server that takes no writes is of no use. Kept as long as budgets are, and longer.
  redis.call('SET', KEYS[1], epoch, 'PX', LONG)
  return epoch
end

if op == 'take' and epoch ~= '' and redis.call('GET', KEYS[1]) ~= epoch then
  return { -1, 0 }
end

local items, at, key = {}, 6, 2
while ARGV[at] do
  local item = { kind = ARGV[at], key = KEYS[key] }
  for nth = 1, 4 do
    item[nth] = ARGV[at + nth]
  end
  if item.kind == 'spend' then
    key = key + 1
    item.held = KEYS[key]
  elseif item.kind == 'rate' then
    key = key + 1
    item.turn = KEYS[key]
  end
  at, key = at + 5, key + 1
  items[#items + 1] = item
end

local function lasts(item, key)
  if item[3] == '' then
    redis.call('PEXPIRE', key, LONG)
  else
    redis.call('PEXPIREAT', key, item[3])
  end
end

-- When a data folder read the ledger, and what it spent.
local function parts(told)
  local at = string.find(told, ' ', 1, true)
  return string.sub(told, 1, at - 1), money(string.sub(told, at + 1))
end

-- What a data folder spent in all: the most that was ever told; or what was told after the ledger was read again, even where that
-- is less. So it does not matter how often it is told, nor how late.
local function note_one(item, origin, told)
  local field = 'o:' .. origin
  local known = redis.call('HMGET', item.key, field, 'spent')
  local before = known[1] or '0 0'
  if told == before then
    return
  end
  local asked, spent = parts(told)
  local asked_before, spent_before = parts(before)
  if tonumber(asked) <= tonumber(asked_before) then
    spent = larger(spent, spent_before)
    told = asked_before .. ' ' .. written(spent)
    if told == before then
      return
    end
  end
  local all = plus(minus(money(known[2] or nil), spent_before), spent)
  redis.call('HSET', item.key, field, told, 'spent', written(all))
end

local function note(item)
  for origin, told in string.gmatch(item[4], '(%S+) (%d+ %d+)') do
    note_one(item, origin, told)
  end
end

-- Reads a budget, without what others reserved and neither settled nor renewed.
local function read(item)
  local known = redis.call('HMGET', item.key, 'spent', 'reserved', 'c:' .. id)
  item.spent, item.reserved, item.own = money(known[1] or nil), money(known[2] or nil), known[3]
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', item.held, '-inf', whole(ms))) do
    local cost = redis.call('HGET', item.key, 'c:' .. gone)
    if cost then
      redis.call('HDEL', item.key, 'c:' .. gone)
      item.reserved = minus(item.reserved, money(cost))
    end
    if gone == id then
      item.own = false
    end
    redis.call('ZREM', item.held, gone)
  end
end

local function keep(item)
  redis.call('HSET', item.key, 'reserved', written(item.reserved))
  lasts(item, item.key)
  lasts(item, item.held)
end

local function reserve(item)
  if not item.own then
    redis.call('HSET', item.key, 'c:' .. id, item[1])
    item.reserved = plus(item.reserved, money(item[1]))
  end
  redis.call('ZADD', item.held, whole(ms + ttl), id)
  keep(item)
end

local function enter(item)
  redis.call('ZADD', item.key, whole(ms + ttl), id)
  redis.call('PEXPIRE', item.key, whole(ttl + 1000))
end

local function set(item, used)
  if used > 0 then
    redis.call('SET', item.key, whole(now + used), 'PX', whole(math.ceil(used / 1000) + 1000))
  else
    redis.call('DEL', item.key)
  end
end

local function used(item)
  return math.max(tonumber(redis.call('GET', item.key) or '0') - now, 0)
end

-- For how long a refused request waits: until its own turn, behind those that were refused before it (as Rate::turn has it).
local function turn(item, needs)
  local at, last = now + needs, tonumber(redis.call('GET', item.turn) or '0')
  if last > now then
    at = math.max(at, math.min(last + tonumber(item[1]), now + MINUTE))
  end
  at = math.min(at, now + FAR)
  -- Kept for a minute longer than it counts: a turn that is over changes nothing, whatever clock `now` comes from.
  redis.call('SET', item.turn, whole(at), 'PX', whole(math.ceil((at - now) / 1000) + MINUTE / 1000))
  return at - now
end

if op == 'give' then
  for _, item in ipairs(items) do
    if item.kind == 'rate' then
      local more, back = tonumber(item[1]), tonumber(item[2])
      if more > 0 then
        set(item, math.min(used(item) + more, FAR))
      elseif back > 0 then
        set(item, used(item) - back)
      end
    elseif item.kind == 'place' then
      redis.call('ZREM', item.key, id)
    else
      note(item)
      redis.call('ZREM', item.held, id)
      read(item)
      if item.own then
        redis.call('HDEL', item.key, 'c:' .. id)
        item.reserved = minus(item.reserved, money(item.own))
      end
      keep(item)
    end
  end
  return {}
end

if op == 'renew' then
  for _, item in ipairs(items) do
    if item.kind == 'place' then
      enter(item)
    else
      note(item)
      read(item)
      reserve(item)
    end
  end
  return {}
end

local exceeded, wait, states = 0, 0, {}
for nth, item in ipairs(items) do
  local fits, needs = true, 0
  if item.kind == 'rate' or item.kind == 'look' then
    item.used = used(item)
    states[nth] = item.used
    if item.kind == 'rate' then
      -- What costs more than a minute's worth is admitted when nothing is used.
      needs = math.min(item.used, item.used + tonumber(item[1]) - MINUTE)
      fits = needs <= 0
    end
  elseif item.kind == 'place' then
    redis.call('ZREMRANGEBYSCORE', item.key, '-inf', whole(ms))
    states[nth] = redis.call('ZCARD', item.key)
    fits = states[nth] < tonumber(item[1])
  else
    note(item)
    read(item)
    states[nth] = 0
    local limit, nothing = money(item[2]), item.reserved[1] == 0 and item.reserved[2] == 0
    local after = plus(plus(item.spent, item.reserved), money(item[1]))
    local left = not at_most(limit, item.spent)
    -- A first one fits that finds anything left.
    fits = left and (nothing or at_most(after, limit))
    needs = left and SOON or 0
  end
  if not fits and exceeded == 0 then
    exceeded, wait = nth, needs
  end
end
if exceeded > 0 and items[exceeded].kind == 'rate' then
  wait = turn(items[exceeded], wait)
end
for nth, item in ipairs(items) do
  if exceeded > 0 then
    -- What others left was forgotten, which has to be kept.
    if item.kind == 'spend' then
      keep(item)
    end
  elseif item.kind == 'rate' then
    states[nth] = math.min(item.used + tonumber(item[1]), FAR)
    set(item, states[nth])
  elseif item.kind == 'place' then
    enter(item)
    states[nth] = states[nth] + 1
  elseif item.kind == 'spend' then
    reserve(item)
  end
end
table.insert(states, 1, wait)
table.insert(states, 1, exceeded)
return states
