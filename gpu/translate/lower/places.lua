-- places.lua: where tables lie on the device: in storage, a tree of C locals with the layout that
-- the table's class says.
--
-- Storage is { class, var } for a number; with `fields` for a table, and `list` = { from, to,
-- element, count } for a list. `size`: when it lies in elements of lists: of how many elements its
-- room (a private array) consists. A place is { t = "object", storage, at = index into its rooms }.

local classes = require "tidepool.translate.lower.classes"
local nodes = require "tidepool.translate.lower.nodes"
local ranges = require "tidepool.translate.lower.ranges"
local symbols = require "tidepool.translate.lower.symbols"

local places = {}

local find, note_change = classes.find, classes.note_change
local is_inside = ranges.is_inside
local all_of, binop, check, emit, is_whole, name_of = nodes.all_of, nodes.binop, nodes.check, nodes.emit, nodes.is_whole, nodes.name_of
local new_local, node_at, number, refuse, scalar = nodes.new_local, nodes.node_at, nodes.number, nodes.refuse, nodes.scalar

local ROOM_MAX = 4096      -- elements of all lists of a function
places.ROOM_MAX = ROOM_MAX
local OPEN_ROOM_MIN = 16
local DEPTH_MAX = 16       -- tables in each other

local function declare(L, at, name, size, class)
    local var = new_local(L, name, at, true)
    local is_boolean = class ~= nil and class.is_boolean
    var.is_boolean, var.class, var.mark = is_boolean, class, L.result_mark or nodes.mark(L)
    if L.formals then -- it stands for a local of the caller: lower/lifting.lua
        var.size = size
        L.formals[#L.formals + 1] = var
        return var
    end
    if size then
        L.room = L.room + size
        if L.room > ROOM_MAX then
            if L.open_room > OPEN_ROOM_MIN then -- for lists of unknown length, if there are some
                L.open_room = L.open_room / 2
                note_change(L)
            end
            refuse(L, at, "'%s': the lists of this function would have more than %d elements; capture a typed array (tidepool.array)", name, ROOM_MAX)
        end
        emit(L, node_at(L, at, "Room", { var = var, size = size }))
    else
        local zero = L.zero and (is_boolean and node_at(L, at, "False", {}) or number(L, at, 0))
        emit(L, node_at(L, at, "Local", { vars = { var }, exprs = zero and { zero } or {} }))
    end
    return var
end

local function new_storage(L, at, class, name, size, parent)
    class = find(class)
    local storage = { class = class, name = name, size = size, loops = #L.loops, at = at, is_alive = true, line = at.line, home = L.scope }
    storage.parent, storage.root = parent, parent and parent.root or storage
    L.serial = L.serial + 1
    storage.serial = L.serial
    if not parent then storage.owner = L.lift end
    if not parent then L.scope.storages[#L.scope.storages + 1] = storage end
    if not class.is_table then
        storage.var = declare(L, at, name, size, class)
        return storage
    end
    if class.is_mixed or class.struct and class.is_lua then
        refuse(L, at, "'%s' is a struct of C in one place and something else in another; a variable has one type on a device", storage.root.name)
    end
    storage.depth = parent and parent.depth + 1 or 1
    if storage.depth > DEPTH_MAX then
        refuse(L, at, "'%s' is a table in tables of its own kind, like a list whose nodes know the next one; on a device tables are not in "
            .. "themselves, use lists of numbers and indexes", storage.root.name)
    end
    storage.fields = {}
    for _, key in ipairs(class.order) do
        storage.fields[key] = new_storage(L, at, class.fields[key], type(key) == "number" and ("%s[%d]"):format(name, key) or name .. "."
            .. tostring(key),
            size, storage)
        storage.fields[key].key = key
    end
    if class.has_list then
        local to = math.max(class.to >= 1 and class.to or class.counted or 0, class.count or 0)
        local count = math.max(1, to + (class.appended or 0) - class.from + 1)
        if class.open then count = math.max(count, L.open_room) end
        local list = { class = class, from = class.from, count = count, is_fixed = not class.grows and class.count ~= nil, length = class.count }
        storage.list = list
        if class.has_holes then
            list.n = declare(L, at, "number of elements of " .. name, size)
            list.last = declare(L, at, "last of " .. name, size)
            list.there = declare(L, at, "elements of " .. name, (size or 1) * count, { is_boolean = true })
        elseif not list.is_fixed then
            list.first = declare(L, at, "first of " .. name, size)
            list.last = declare(L, at, "last of " .. name, size)
        end
        list.element = new_storage(L, at, class.fields["*"], name .. "[...]", (size or 1) * count, storage)
        list.element.key = "*"
    end
    return storage
end
places.new_storage = new_storage

local function read_var(L, at, var, index)
    if index then return node_at(L, at, "Cell", { var = var, index = index }) end
    return name_of(L, at, var)
end
places.read_var = read_var

function places.write_var(L, at, var, index, value)
    if index then
        emit(L, node_at(L, at, "Put", { var = var, index = index, value = value }))
    else
        emit(L, node_at(L, at, "Assign", { targets = { name_of(L, at, var) }, exprs = { value } }))
        var.is_set = var.is_set or nodes.is_surely_run(L, var.mark, var.mark.is_result and 1 or 0)
    end
end

--- Has a table that was no list yet numbers as keys beside those that its constructor counts?
function places.is_open(class)
    for _, key in ipairs(class.order) do
        if type(key) == "number" and (not class.count or key < 1 or key > class.count or find(class.fields[key]).has_nil) then return true end
    end
    return false
end

--- Is the field of a table of the function surely there?
function places.is_there(place, key)
    local storage = place.storage.fields[key]
    local class = storage and find(storage.class)
    if not class or class.has_nil then return false end
    local function is_set(part)
        if part.var then return part.var.is_set == true end
        for _, each in pairs(part.fields) do
            if is_set(each) then return true end
        end
        return part.list ~= nil and part.list.last ~= nil and part.list.last.is_set == true
    end
    return not class.is_late or is_set(storage)
end

local function object(storage, index)
    return { t = "object", storage = storage, at = index }
end
places.object = object

-- The value that a storage holds at that index of its room: a table, or a number.
function places.value_of(L, at, storage, index)
    if storage.fields then return object(storage, index) end
    local read = read_var(L, at, storage.var, index)
    return scalar(find(storage.class).is_symbol and symbols.wrap(L, at, read) or read, storage.class)
end

-- The first and the last index of a list. One that may have holes (holes.lua) must have none now.
local function first_of(L, at, place)
    local list = place.storage.list
    return not list.first and number(L, at, 1) or read_var(L, at, list.first, place.at)
end
places.first_of = first_of

local function last_of(L, at, place)
    local list = place.storage.list
    if list.is_fixed then return number(L, at, list.length) end
    local last = read_var(L, at, list.last, place.at)
    if list.there then
        check(L, at, binop(L, at, "==", last, read_var(L, at, list.n, place.at)),
            { ("'%s' has holes here, so its length is not defined; on a device it is a list only without them"):format(place.storage.name) })
    end
    return last
end
places.last_of = last_of

-- The index into the rooms of a list's elements.
function places.room_index(L, at, place, key)
    local list = place.storage.list
    local index = key.tag == "Number" and number(L, at, key.value - list.from) or list.from == 0 and key
        or binop(L, at, "-", key, number(L, at, list.from))
    if not place.at then return index end
    return binop(L, at, "+", binop(L, at, "*", place.at, number(L, at, list.count)), index)
end

-- Takes down what a function that calls itself does to a table that it has not made: in `of_info`,
-- by the path from the parameter, where it is given the table; else in `of_lift`.
local function note_effect(L, storage, of_lift, of_info)
    local lift, root = L.lift, storage.root
    if not lift then return end
    if root.owner ~= lift then
        if not lift[of_lift][storage] then
            lift[of_lift][storage] = true
            table.insert(lift[of_lift], storage)
        end
    elseif root.formal and root.formal.index then
        local path, part = {}, storage
        while part.parent do
            table.insert(path, 1, part.key)
            part = part.parent
        end
        local paths = lift.info[of_info][root.formal.index] or {}
        lift.info[of_info][root.formal.index] = paths
        local key = table.concat(path, "\0")
        if not paths[key] then
            paths[key] = path
            note_change(L)
        end
    end
end

-- Notes that another table is put into the place of the one that is there.
function places.note_overwrite(L, storage) note_effect(L, storage, "overwritten", "overwrites") end

-- A table's name for messages: of one that has none of its own, that of a local which it is.
local function shown(storage)
    for _, alias in ipairs(storage.root.aliases or {}) do
        if alias.scope.is_open then return (storage.name:gsub("^[%w_]+", alias.var.name, 1)) end
    end
    return storage.name
end

-- Refuses a change of a table of which there is a copy that would have to change, too.
function places.note_mutation(L, at, place)
    local storage = place.storage
    note_effect(L, storage, "mutated", "mutates")
    storage.changes = (storage.changes or 0) + 1
    while storage do
        storage.mutated = storage.mutated or at.line
        for _, other in ipairs(storage.copies or {}) do
            if other.is_target or other.storage.root.is_alive then
                refuse(L, at, "a change of '%s', which is also '%s' since line %d; on a device these are two tables, copy its fields into a new one",
                    shown(storage), shown(other.storage), other.line)
            end
        end
        storage = storage.parent
    end
end

local function link(storage, other, line, is_target)
    storage.copies = storage.copies or {}
    for _, known in ipairs(storage.copies) do
        if known.storage == other then
            known.is_target = known.is_target or is_target
            return
        end
    end
    table.insert(storage.copies, { storage = other, line = line, is_target = is_target })
end

--- Notes for a table that is copied which other ones are one with it: they are with its copy, too.
function places.note_kept_copies(from, to)
    for _, other in ipairs(from.storage.copies or {}) do
        if other.storage ~= to.storage then
            link(to.storage, other.storage, other.line, other.is_target)
            link(other.storage, to.storage, other.line, true)
        end
    end
end

-- Is something true of a part of the table, or of one that it is a part of?
local function any_part(storage, is_true)
    if is_true(storage) then return true end
    for _, each in pairs(storage.fields or {}) do
        if any_part(each, is_true) then return true end
    end
    return storage.list ~= nil and any_part(storage.list.element, is_true)
end

--- Notes that a table and another one get each other's places, in a loop that has not made it: of
--- what is a copy of one of them is not known afterwards which one it is.
function places.note_swap(L, at, place)
    if place.storage.root.loops < #L.loops then place.storage.swapped = at.line end
end

local function swapped_in(storage)
    local line
    any_part(storage, function(part) line = part.swapped return line end)
    while storage and not line do storage, line = storage.parent, storage.swapped end
    return line
end

-- Notes that the table was copied to a place, and can still be reached where it was.
function places.note_copy(L, at, from, to)
    local source, target = from.storage, to.storage
    if source == target then return end
    local lift, of = L.lift, target.root.formal
    local function is_outside(root) return root.owner ~= lift or root.formal ~= nil end
    if lift and is_outside(source.root) and is_outside(target.root) then
        -- who calls the function has both
        local given = source.root.owner == lift and source.root.formal.index
        if given and of and of.result then
            lift.info.results[of.result].copies[given] = true
            return
        end
        refuse(L, at, "'%s' is put into '%s' in '%s', which calls itself; on a device these are two tables, put a new one there", source.name,
            target.name, lift.name)
    end
    -- its own copies end with the call
    local loops = lift and is_outside(source.root) and math.max(source.root.loops, lift.loops) or source.root.loops
    local changed = loops < #L.loops and (source.mutated or target.root == target and target.mutated)
    if changed then
        refuse(L, at, "'%s' is put into '%s', and changed in line %d; on a device these are two tables, put a new one there", shown(source),
            shown(target), changed)
    end
    local swapped = loops < #L.loops and source.root ~= target.root and swapped_in(source)
    if swapped then
        refuse(L, at, "'%s' is put into '%s', and into another place in line %d; on a device these are two tables, put a new one there",
            shown(source), shown(target), swapped)
    end
    link(source, target, at.line, true)
    link(target, source, at.line)
end

--- What is wrong where an element has no room. Of a list of known length that cannot be, but for
--- what recursion adds to it, which has a limit.
function places.no_room(place)
    local storage = place.storage
    local list, line = storage.list, find(storage.class).open
    if not line then return { "index ", (" of '%s' has no room there"):format(storage.name) } end
    return { ("'%s' gets more than %d elements, for which a list has room on a device if the loop of line %d has no constant limit; give it one")
        :format(storage.name, list.count, line) }
end

-- Checks that a list has an element with this index; nothing when that is known.
function places.check_index(L, at, place, key)
    local list = place.storage.list
    if list.there then
        local is_there = node_at(L, at, "Cell", { var = list.there, index = places.room_index(L, at, place, key) })
        local is_one = nodes.is_within(L, at, key, number(L, at, list.from), number(L, at, list.from + list.count - 1))
        return check(L, at, all_of(L, at, { is_one, is_there }), { "index ", (" of '%s' has no element, or is not a whole number"):format(
            place.storage.name) }, key)
    end
    if list.is_fixed and is_inside(ranges.full_range_of(L, key), 1, list.length) then return end
    check(L, at, all_of(L, at, { binop(L, at, ">=", key, first_of(L, at, place)), binop(L, at, "<=", key, last_of(L, at, place)), is_whole(L, at,
        key) }),
        { "index ", (" of '%s' has no element, or is not a whole number"):format(place.storage.name) }, key)
end

return places
